//! Parallel coordinates: every point that was tried as a line over its settings, the better the stronger (Inselberg 1985).

use crate::charts::chart::{Chart, DrawResult, Tooltip, exact_digits, text_style};
use crate::charts::theme::{BACKGROUND, INK, LINE, MUTED};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// One vertical axis.
#[derive(Debug, Clone)]
pub(crate) struct ParallelAxis {
    pub(crate) name: String,
    /// Labels at shares of the height, from below.
    pub(crate) ticks: Vec<(f64, String)>,
}

/// One point: its position on each axis; `None` where the setting does not apply.
#[derive(Debug, Clone)]
pub(crate) struct ParallelLine {
    pub(crate) positions: Vec<Option<f64>>,
    /// From 0, the worst, to 1, the best.
    pub(crate) strength: f64,
}

/// All of an arm.
#[derive(Debug, Clone)]
pub(crate) struct Parallel {
    pub(crate) size: (u32, u32),
    pub(crate) color: RGBColor,
    pub(crate) axes: Vec<ParallelAxis>,
    /// The best is drawn last.
    pub(crate) lines: Vec<ParallelLine>,
}

impl Chart for Parallel {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: f64, _: &mut Vec<Tooltip>) -> DrawResult<B> {
        let px = |x: f64| (x * scale).round() as i32;
        area.fill(&BACKGROUND)?;
        let (width, height) = area.dim_in_pixel();
        let (left, right) = (px(52.0), width as i32 - px(64.0));
        let (top, bottom) = (px(40.0), height as i32 - px(34.0));
        let gaps = (self.axes.len().max(2) - 1) as i32;
        let x = |axis: usize| left + (right - left) * axis as i32 / gaps;
        // a setting that does not apply passes below the axis
        let y = |share: Option<f64>| match share {
            Some(share) => bottom - (f64::from(bottom - top) * share).round() as i32,
            None => bottom + px(18.0),
        };
        for (index, axis) in self.axes.iter().enumerate() {
            area.draw(&PathElement::new(vec![(x(index), top), (x(index), bottom)], LINE.stroke_width(px(1.5) as u32)))?;
            let name = text_style(12.0, INK, scale).pos(Pos::new(HPos::Center, VPos::Center));
            area.draw(&Text::new(axis.name.clone(), (x(index), px(16.0)), name))?;
        }
        for line in &self.lines {
            let path: Vec<(i32, i32)> =
                line.positions.iter().enumerate().map(|(index, position)| (x(index), y(*position))).collect();
            let color = if line.strength < 0.75 { MUTED } else { self.color };
            let stroke = color.mix(0.25 + 0.75 * line.strength.powi(2));
            area.draw(&PathElement::new(
                path,
                stroke.stroke_width(px(1.0 + 1.8 * line.strength.powi(4)).max(1) as u32),
            ))?;
        }
        for (index, axis) in self.axes.iter().enumerate() {
            let style = text_style(10.5, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
            for (share, label) in &axis.ticks {
                let height = y(Some(*share));
                area.draw(&PathElement::new(
                    vec![(x(index) - px(3.0), height), (x(index) + px(3.0), height)],
                    MUTED.stroke_width(px(1.0) as u32),
                ))?;
                let (w, h) = area.estimate_text_size(label, &style)?;
                let corner = (x(index) + px(6.0), height);
                let background = [
                    (corner.0 - px(1.0), height - h as i32 / 2),
                    (corner.0 + w as i32 + px(1.0), height + h as i32 / 2),
                ];
                area.draw(&Rectangle::new(background, BACKGROUND.mix(0.75).filled()))?;
                area.draw(&Text::new(label.clone(), corner, style.clone()))?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head = self.axes.iter().map(|axis| format!("{}, share of the axis", axis.name)).collect();
        let row = |line: &ParallelLine| {
            line.positions.iter().map(|positions| positions.map_or("–".into(), exact_digits)).collect()
        };
        (head, self.lines.iter().map(row).collect())
    }
}
