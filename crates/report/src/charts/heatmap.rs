//! A square table of shares, the further from a half the stronger its color.

use crate::charts::chart::{Chart, DrawResult, Tooltip, text_style};
use crate::charts::theme::{BACKGROUND, INK, LINE, palette_color};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Shares of a square table, by row and column.
#[derive(Debug, Clone)]
pub(crate) struct Heatmap {
    pub(crate) size: (u32, u32),
    pub(crate) names: Vec<String>,
    /// `None` where nothing was measured.
    pub(crate) shares: Vec<Vec<Option<f64>>>,
    pub(crate) labels: Vec<Vec<String>>,
}

impl Chart for Heatmap {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        tooltips: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&BACKGROUND)?;
        let (width, height) = area.dim_in_pixel();
        let mut left = px(40.0);
        for name in &self.names {
            left = left.max(area.estimate_text_size(name, &text_style(12.0, INK, scale))?.0 as i32 + px(20.0));
        }
        let (top, n) = (px(36.0), self.names.len().max(1) as i32);
        let (wide, high) = ((width as i32 - left - px(8.0)) / n, (height as i32 - top - px(8.0)) / n);
        for (row, name) in self.names.iter().enumerate() {
            let y = top + high * row as i32 + high / 2;
            let right = text_style(12.0, INK, scale).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), (left - px(8.0), y), right))?;
            let middle = text_style(12.0, INK, scale).pos(Pos::new(HPos::Center, VPos::Center));
            let x = left + wide * row as i32 + wide / 2;
            area.draw(&Text::new(name.clone(), (x, px(18.0)), middle.clone()))?;
            for (column, other) in self.names.iter().enumerate() {
                let x = left + wide * column as i32;
                let corners = [(x + px(1.0), y - high / 2 + px(1.0)), (x + wide - px(1.0), y + high / 2 - px(1.0))];
                if let Some(share) = self.shares[row][column].filter(|share| share.is_finite()) {
                    let color = palette_color(usize::from(share < 0.5)).mix((share - 0.5).abs().min(0.5) * 1.4);
                    area.draw(&Rectangle::new(corners, color.filled()))?;
                }
                area.draw(&Rectangle::new(corners, LINE.stroke_width(px(1.0) as u32)))?;
                let label = &self.labels[row][column];
                area.draw(&Text::new(label.clone(), (x + wide / 2, y), middle.clone()))?;
                tooltips.push(Tooltip { x: x + wide / 2, y, text: format!("{name} against {other} · {label}") });
            }
        }
        Ok(())
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head =
            std::iter::once("wins of the row against the column".to_string()).chain(self.names.clone()).collect();
        let row =
            |(name, labels): (&String, &Vec<String>)| std::iter::once(name.clone()).chain(labels.clone()).collect();
        (head, self.names.iter().zip(&self.labels).map(row).collect())
    }
}
