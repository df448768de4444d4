//! A chart of y over x.

use crate::charts::axes::{Axis, LOG_PADDING, Scale, log_ticks, padded_range, round_ticks, single_value_padding};
use crate::charts::chart::{Chart, DrawResult, Tooltip, exact_digits, text_style};
use crate::charts::legend::{draw_end_labels, draw_legend, draw_point_labels, end_label_room};
use crate::charts::marks::{PlotArea, Series, draw_marks};
use crate::charts::theme::{BACKGROUND, INK, LINE, MUTED};
use crate::format;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Points of a series beyond which it has no tooltips.
const MAX_TOOLTIPS: usize = 400;

/// A chart of y over x.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub(crate) size: (u32, u32),
    pub(crate) x_name: String,
    pub(crate) y_name: String,
    pub(crate) x_scale: Scale,
    /// x values that must be marked, in place of round ones.
    pub(crate) x_ticks: Option<Vec<f64>>,
    /// Names of the values 0, 1, … on an axis of categories; empty for an axis of numbers.
    pub(crate) x_categories: Vec<String>,
    pub(crate) y_categories: Vec<String>,
    pub(crate) series: Vec<Series>,
}

impl Plot {
    /// Linear axes, round ticks.
    pub(crate) fn new(
        size: (u32, u32),
        x_name: impl Into<String>,
        y_name: impl Into<String>,
        series: Vec<Series>,
    ) -> Self {
        Self {
            size,
            x_name: x_name.into(),
            y_name: y_name.into(),
            x_scale: Scale::Linear,
            x_ticks: None,
            x_categories: vec![],
            y_categories: vec![],
            series,
        }
    }

    fn x_coordinate(&self, x: f64) -> f64 {
        match self.x_scale {
            Scale::Linear => x,
            Scale::Log => x.log10(),
        }
    }

    /// The points of a series that the axes can show, with their indices in it: a logarithmic axis has no position for zero.
    fn visible_points(&self, series: &Series) -> Vec<(usize, (f64, f64))> {
        let is_visible = |(x, _): &(f64, f64)| self.x_scale == Scale::Linear || *x > 0.0;
        let on_axes = |(index, (x, y)): (usize, (f64, f64))| (index, (self.x_coordinate(x), y));
        series.data.iter().copied().enumerate().filter(|(_, point)| is_visible(point)).map(on_axes).collect()
    }

    /// Ends of the x axis; a single value on a logarithmic one is in the middle of a factor of four.
    pub(super) fn x_range(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| self.visible_points(series)).map(|(_, point)| point.0);
        match self.x_scale {
            Scale::Linear => padded_range(values, 0.05, single_value_padding),
            Scale::Log => {
                let (low, high) = padded_range(values, 0.05, |_| 0.0);
                if high > low { (low, high) } else { (low - LOG_PADDING, high + LOG_PADDING) }
            }
        }
    }

    fn x_axis(&self) -> Axis {
        let (low, high) = self.x_range();
        let ticks = match (&self.x_ticks, self.x_scale) {
            (Some(ticks), _) => ticks.clone(),
            (None, Scale::Linear) => round_ticks(low, high, 7),
            (None, Scale::Log) => log_ticks(low, high),
        };
        Axis { range: low..high, ticks }
    }

    fn y_axis(&self) -> Axis {
        match self.y_categories.len() {
            0 => {
                let values = self.series.iter().flat_map(|s| self.visible_points(s)).map(|(_, point)| point.1);
                let (low, high) = padded_range(values, 0.08, single_value_padding);
                Axis { range: low..high, ticks: round_ticks(low, high, 7) }
            }
            // the first on top
            rows => Axis { range: rows as f64 - 0.5..-0.5, ticks: (0..rows).map(|row| row as f64).collect() },
        }
    }

    /// The texts at the ticks of the x axis.
    pub(super) fn x_labels(&self, ticks: &[f64]) -> Vec<String> {
        match self.x_scale {
            _ if !self.x_categories.is_empty() => {
                ticks.iter().map(|x| self.x_categories.get(x.round() as usize).cloned().unwrap_or_default()).collect()
            }
            Scale::Linear => format::ticks(ticks),
            Scale::Log => format::log_ticks(&ticks.iter().map(|x| 10f64.powf(*x)).collect::<Vec<_>>()),
        }
    }

    /// Whether a series has its name at its end: where it has a visible point at all.
    fn has_end_label(&self, series: &Series) -> bool {
        series.has_end_label() && self.y_categories.is_empty() && !self.visible_points(series).is_empty()
    }

    /// Series with a name at their end, and their last points.
    fn end_labels(&self) -> impl Iterator<Item = (&Series, (f64, f64))> {
        let named = self.series.iter().filter(|s| !s.name.is_empty() && self.has_end_label(s));
        named.filter_map(|series| Some((series, self.visible_points(series).last()?.1)))
    }

    /// Draws the axes with their names and ticks, and returns the area within them.
    fn draw_axes<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        body: &DrawingArea<B, Shift>,
        scale: f64,
    ) -> DrawResult<B, PlotArea<B>> {
        let px = |x: f64| (x * scale) as i32;
        let (x_axis, y_axis) = (self.x_axis(), self.y_axis());
        let (x_ticks, y_ticks) = (x_axis.ticks.clone(), y_axis.ticks.clone());
        let (x_labels, y_labels) = (self.x_labels(&x_ticks), format::ticks(&y_ticks));
        let label_at = |ticks: &[f64], labels: &[String], value: f64| {
            ticks.iter().position(|tick| *tick == value).map_or(String::new(), |index| labels[index].clone())
        };
        let mut left = px(58.0);
        for category in &self.y_categories {
            let (width, _) = area.estimate_text_size(category, &text_style(12.0, INK, scale))?;
            left = left.max(width as i32 + px(14.0));
        }
        if self.y_name.is_empty() && !self.y_categories.is_empty() {
            left -= px(4.0);
        }
        let label_start = x_axis.range.start + (x_axis.range.end - x_axis.range.start) * 0.7;
        let at_right: Vec<&Series> =
            self.end_labels().filter(|(_, last)| last.0 >= label_start).map(|(series, _)| series).collect();
        let mut chart = ChartBuilder::on(body)
            .margin_left(px(8.0))
            .margin_right(end_label_room(area, &at_right, scale)?)
            .margin_top(px(6.0))
            .margin_bottom(px(4.0))
            .x_label_area_size(px(42.0))
            .y_label_area_size(left)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .bold_line_style(LINE.stroke_width(px(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(MUTED.stroke_width(px(1.0) as u32))
            .set_all_tick_mark_size(px(5.0))
            .x_desc(self.x_name.as_str())
            .y_desc(self.y_name.as_str())
            .label_style(text_style(12.0, MUTED, scale))
            .axis_desc_style(text_style(13.0, INK, scale))
            .x_label_formatter(&|x| label_at(&x_ticks, &x_labels, *x))
            .y_label_formatter(&|y| match self.y_categories.get(*y as usize) {
                Some(category) => category.clone(),
                None => label_at(&y_ticks, &y_labels, *y),
            })
            .draw()?;
        Ok(chart.plotting_area().clone())
    }

    /// The text at a point.
    fn tooltip_text(&self, series: &Series, index: usize) -> String {
        let (x, y) = series.data[index];
        let short = |name: &str| name.split([',', '(']).next().unwrap_or_default().trim().to_string();
        let value = |x: f64| match x.abs() {
            size if size >= 1000.0 || (size < 0.001 && size > 0.0) => format::si(x),
            _ => format::fixed(x, 3),
        };
        let part = |name: &str, categories: &[String], x: f64| match categories.get(x.round() as usize) {
            Some(category) => category.clone(),
            None => format!("{} {}", short(name), value(x)),
        };
        let texts = [Some(&series.description), series.labels.get(index)].into_iter().flatten();
        let mut parts: Vec<String> = texts.filter(|text| !text.is_empty()).cloned().collect();
        parts.push(part(&self.x_name, &self.x_categories, x));
        parts.push(part(&self.y_name, &self.y_categories, y));
        parts.join(" · ")
    }
}

impl Chart for Plot {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        tooltips: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        area.fill(&BACKGROUND)?;
        let in_legend: Vec<&Series> =
            self.series.iter().filter(|s| !s.name.is_empty() && !self.has_end_label(s)).collect();
        let (_, body) = area.split_vertically(draw_legend(area, &in_legend, scale)?);
        let plot_area = self.draw_axes(area, &body, scale)?;
        let mut point_labels = vec![];
        for series in &self.series {
            let (indices, points): (Vec<usize>, Vec<(f64, f64)>) = self.visible_points(series).into_iter().unzip();
            draw_marks(area, &plot_area, series, &points, scale)?;
            let labelled = points.iter().zip(&indices).filter_map(|(point, index)| {
                Some((series, series.labels.get(*index)?.as_str(), plot_area.map_coordinate(point)))
            });
            point_labels.extend(labelled);
            if !series.is_interval() && points.len() <= MAX_TOOLTIPS {
                for (point, &index) in points.iter().zip(&indices) {
                    let (x, y) = plot_area.map_coordinate(point);
                    tooltips.push(Tooltip { x, y, text: self.tooltip_text(series, index) });
                }
            }
        }
        let ends: Vec<(&Series, (i32, i32))> =
            self.end_labels().map(|(series, last)| (series, plot_area.map_coordinate(&last))).collect();
        let covered = draw_end_labels(area, &ends, scale)?;
        draw_point_labels(area, &point_labels, covered, scale)
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let y_name = if self.y_name.is_empty() { "of" } else { &self.y_name };
        let head = ["series", self.x_name.as_str(), y_name, "words"].map(String::from).to_vec();
        let cell = |categories: &[String], value: f64| match categories.get(value.round() as usize) {
            Some(category) => category.clone(),
            None => exact_digits(value),
        };
        let row = |series: &Series, index: usize, (x, y): (f64, f64)| {
            let label = series.labels.get(index).cloned().unwrap_or_default();
            vec![series.description.clone(), cell(&self.x_categories, x), cell(&self.y_categories, y), label]
        };
        let rows = |series: &Series| {
            series.data.iter().enumerate().map(|(index, &point)| row(series, index, point)).collect::<Vec<_>>()
        };
        (head, self.series.iter().flat_map(rows).collect())
    }
}
