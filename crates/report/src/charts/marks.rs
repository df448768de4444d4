//! The marks of a plot: points, lines and intervals of one color.

use crate::charts::axes::Axis;
use crate::charts::chart::DrawResult;
use crate::charts::theme::BACKGROUND;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

/// Magnitude beyond which nothing is drawn, so that the length of an axis is finite.
const LARGEST: f64 = 1e300;

/// The part of a plot within its axes.
pub(super) type PlotArea<B> = DrawingArea<B, Cartesian2d<Axis, Axis>>;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MarkStyle {
    Line {
        width: f64,
    },
    Dashed {
        width: f64,
    },
    Dots {
        radius: f64,
    },
    /// Rings with a pale middle, for means.
    Rings {
        radius: f64,
    },
    Cross {
        radius: f64,
    },
    /// The area within a closed line: an interval.
    Band,
    /// A line between every two points: an interval along x.
    Whiskers {
        width: f64,
    },
}

/// Points or a line of one color.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Written at its end, or in the legend where it has none; empty for none.
    pub(crate) name: String,
    /// What it is, for tooltips and the table of the chart.
    pub(crate) description: String,
    pub(crate) color: RGBColor,
    pub(crate) opacity: f64,
    pub(crate) style: MarkStyle,
    pub(crate) data: Vec<(f64, f64)>,
    /// Text beside each point; empty for none.
    pub(crate) labels: Vec<String>,
}

impl Series {
    /// Without name or labels; points that no axis can hold are left out.
    pub(crate) fn new(style: MarkStyle, color: RGBColor, mut data: Vec<(f64, f64)>) -> Self {
        data.retain(|(x, y)| x.abs() <= LARGEST && y.abs() <= LARGEST);
        Self { name: String::new(), description: String::new(), color, opacity: 1.0, style, data, labels: vec![] }
    }

    pub(crate) fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let description = if self.description.is_empty() { name.clone() } else { self.description };
        Self { name, description, ..self }
    }

    pub(crate) fn described(self, description: impl Into<String>) -> Self {
        Self { description: description.into(), ..self }
    }

    pub(crate) fn with_opacity(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }

    pub(crate) fn with_labels(self, labels: Vec<String>) -> Self {
        Self { labels, ..self }
    }

    /// The interval between two lines over the same x.
    pub(crate) fn band(color: RGBColor, low: &[(f64, f64)], high: &[(f64, f64)]) -> Self {
        let outline = high.iter().chain(low.iter().rev()).copied().collect();
        Self::new(MarkStyle::Band, color, outline).with_opacity(0.16)
    }

    /// Whether its name can be written at its last point.
    pub(super) fn has_end_label(&self) -> bool {
        matches!(self.style, MarkStyle::Line { .. } | MarkStyle::Dashed { .. } | MarkStyle::Rings { .. })
    }

    pub(super) fn is_interval(&self) -> bool {
        matches!(self.style, MarkStyle::Band | MarkStyle::Whiskers { .. })
    }
}

/// Draws a series whose points have these coordinates.
pub(super) fn draw_marks<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    plot_area: &PlotArea<B>,
    series: &Series,
    points: &[(f64, f64)],
    scale: f64,
) -> DrawResult<B> {
    let px = |x: f64| (x * scale) as i32;
    let color = series.color.mix(series.opacity);
    let pixel = |point: &(f64, f64)| plot_area.map_coordinate(point);
    let is_single_pixel = points.iter().all(|point| pixel(point) == pixel(&points[0]));
    match series.style {
        // a line of one point would be invisible
        MarkStyle::Line { width } | MarkStyle::Dashed { width } if is_single_pixel => {
            if let Some(point) = points.first() {
                draw_marker(area, pixel(point), MarkStyle::Dots { radius: width + 1.0 }, color, scale)?;
            }
        }
        MarkStyle::Line { width } => {
            plot_area.draw(&PathElement::new(points.to_vec(), color.stroke_width(px(width).max(1) as u32)))?;
        }
        MarkStyle::Dashed { width } => {
            let stroke = color.stroke_width(px(width).max(1) as u32);
            plot_area.draw(&DashedPathElement::new(points.to_vec(), px(7.0), px(5.0), stroke))?;
        }
        MarkStyle::Band if points.len() > 2 => plot_area.draw(&Polygon::new(points.to_vec(), color.filled()))?,
        MarkStyle::Band => plot_area.draw(&PathElement::new(points.to_vec(), color.stroke_width(px(4.0) as u32)))?,
        MarkStyle::Whiskers { width } => {
            for ends in points.chunks_exact(2) {
                plot_area.draw(&PathElement::new(ends.to_vec(), color.stroke_width(px(width).max(1) as u32)))?;
            }
        }
        style => {
            for point in points {
                draw_marker(area, pixel(point), style, color, scale)?;
            }
        }
    }
    Ok(())
}

/// Draws one marker at a pixel.
pub(super) fn draw_marker<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    center: (i32, i32),
    style: MarkStyle,
    color: RGBAColor,
    scale: f64,
) -> DrawResult<B> {
    let px = |x: f64| (x * scale).round() as i32;
    match style {
        MarkStyle::Dots { radius } => area.draw(&Circle::new(center, px(radius), color.filled())),
        MarkStyle::Rings { radius } => {
            area.draw(&Circle::new(center, px(radius), color.filled()))?;
            area.draw(&Circle::new(center, px(radius * 0.5), BACKGROUND.filled()))
        }
        MarkStyle::Cross { radius } => {
            let (r, stroke) = (px(radius), color.stroke_width(px(2.0) as u32));
            area.draw(&PathElement::new(vec![(center.0 - r, center.1 - r), (center.0 + r, center.1 + r)], stroke))?;
            area.draw(&PathElement::new(vec![(center.0 - r, center.1 + r), (center.0 + r, center.1 - r)], stroke))
        }
        MarkStyle::Line { .. } | MarkStyle::Dashed { .. } | MarkStyle::Band | MarkStyle::Whiskers { .. } => Ok(()),
    }
}
