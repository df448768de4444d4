//! A chart of bars.

use crate::charts::chart::{Chart, DrawResult, Tooltip, exact_digits, text_style};
use crate::charts::theme::{BACKGROUND, INK};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// One bar, perhaps of two parts.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) color: RGBColor,
    /// Lower and upper part; the lower is drawn paler.
    pub(crate) parts: [f64; 2],
    pub(crate) label: String,
}

/// A chart of bars.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) size: (u32, u32),
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

impl Chart for Bars {
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
        let style = text_style(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(self.title.clone(), (px(12.0), px(16.0)), style))?;
        let (left, top) = (px(12.0), px(36.0));
        let row = (height as i32 - top - px(8.0)) / self.bars.len().max(1) as i32;
        let longest = self.bars.iter().map(|b| b.parts[0] + b.parts[1]).fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(width as i32 - left - px(52.0 + 96.0));
        for (index, bar) in self.bars.iter().enumerate() {
            let y = top + row * index as i32;
            let (above, below) = (y + row / 8, y + row * 7 / 8);
            let start = left + px(52.0);
            let end = |share: f64| start + (room * share / longest).round() as i32;
            let name = text_style(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.name.clone(), (left, (above + below) / 2), name))?;
            let split = end(bar.parts[0]);
            let right = end(bar.parts[0] + bar.parts[1]).max(start + px(2.0));
            area.draw(&Rectangle::new([(start, above), (split, below)], bar.color.mix(0.45).filled()))?;
            area.draw(&Rectangle::new([(split, above), (right, below)], bar.color.filled()))?;
            let style = text_style(12.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.label.clone(), (right + px(7.0), (above + below) / 2), style))?;
            let text = format!("{} · {} · {}", self.title, bar.name, bar.label);
            tooltips.push(Tooltip { x: right, y: (above + below) / 2, text });
        }
        Ok(())
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head = vec!["bar".into(), format!("{}: prerequisites", self.title), "training".into()];
        (
            head,
            self.bars
                .iter()
                .map(|bar| vec![bar.name.clone(), exact_digits(bar.parts[0]), exact_digits(bar.parts[1])])
                .collect(),
        )
    }
}
