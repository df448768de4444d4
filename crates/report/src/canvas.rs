//! Two kinds of chart, drawn alike to SVG and PNG, with a font that comes along.

use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};
use std::ops::Range;
use std::path::Path;
use std::sync::Once;

const FONT: &str = "sans-serif";
pub(crate) const INK: RGBColor = RGBColor(34, 34, 40);
pub(crate) const SOFT: RGBColor = RGBColor(110, 112, 122);
pub(crate) const GRID: RGBColor = RGBColor(229, 231, 236);
/// Pixels of a PNG for one of the SVG: sharp in print.
const PNG_SCALE: f64 = 3.0;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Look {
    Line {
        width: f64,
    },
    Dashed {
        width: f64,
    },
    Dots {
        radius: f64,
    },
    /// Rings with a white middle, for means.
    Rings {
        radius: f64,
    },
    Cross {
        radius: f64,
    },
}

/// Points or a line of one colour.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Shown in the legend; empty for none.
    pub(crate) name: String,
    pub(crate) colour: RGBColor,
    pub(crate) opacity: f64,
    pub(crate) look: Look,
    pub(crate) data: Vec<(f64, f64)>,
    /// Words beside each point; empty for none.
    pub(crate) words: Vec<String>,
}

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// A chart of y over x.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub(crate) size: (u32, u32),
    pub(crate) x_name: String,
    pub(crate) y_name: String,
    pub(crate) x_scale: Scale,
    /// x values that must be marked, in place of round ones.
    pub(crate) x_ticks: Option<Vec<f64>>,
    /// Words in place of their numbers, 0, 1, …; empty for none.
    pub(crate) x_words: Vec<String>,
    pub(crate) series: Vec<Series>,
}

/// One bar, perhaps of two parts.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) colour: RGBColor,
    /// Lower and upper part; the lower is drawn paler.
    pub(crate) parts: [f64; 2],
    pub(crate) words: String,
}

/// A chart of bars.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) size: (u32, u32),
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// An axis with the ticks that it is given.
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

pub(crate) type Drawn<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// Something that can be drawn at any scale.
pub(crate) trait Chart {
    fn size(&self) -> (u32, u32);
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: f64) -> Drawn<B>;
}

fn with_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The bytes are a font that is known to parse; were they not, drawing says so.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

fn undrawn<E: std::fmt::Display>(chart: &str) -> impl Fn(E) -> Error {
    let chart = chart.to_string();
    move |e| Error::Chart { chart: chart.clone(), problem: e.to_string() }
}

/// Writes `<name>.svg` and `<name>.png` into a folder and returns the SVG.
pub(crate) fn save(chart: &impl Chart, folder: &Path, name: &str) -> Result<String> {
    with_font();
    let (width, height) = chart.size();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        chart.draw(&area, 1.0).map_err(undrawn(name))?;
        area.present().map_err(undrawn(name))?;
    }
    duel_ledger::write_atomically(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
    let (width, height) = ((f64::from(width) * PNG_SCALE) as u32, (f64::from(height) * PNG_SCALE) as u32);
    let mut pixels = vec![0; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        chart.draw(&area, PNG_SCALE).map_err(undrawn(name))?;
        area.present().map_err(undrawn(name))?;
    }
    duel_ledger::write_atomically(
        &folder.join(format!("{name}.png")),
        &png(&pixels, width, height).map_err(undrawn(name))?,
    )?;
    Ok(svg)
}

/// Red, green and blue of every pixel as the bytes of a file.
fn png(pixels: &[u8], width: u32, height: u32) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}

/// A text style: size in SVG pixels, colour.
pub(crate) fn text(size: f64, colour: RGBColor, scale: f64) -> TextStyle<'static> {
    TextStyle { color: colour.to_backend_color(), ..TextStyle::from((FONT, size * scale).into_font()) }
}

impl Plot {
    fn tr(&self, x: f64) -> f64 {
        match self.x_scale {
            Scale::Linear => x,
            Scale::Log => x.max(f64::MIN_POSITIVE).log10(),
        }
    }

    fn range(values: impl Iterator<Item = f64>, pad: f64) -> (f64, f64) {
        let (lo, hi) = values
            .filter(|x| x.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
        if lo > hi {
            return (0.0, 1.0);
        }
        let margin = ((hi - lo) * pad).max(1e-9 + hi.abs() * 1e-3);
        (lo - margin, hi + margin)
    }

    /// The legend, above the plot; returns its height in pixels.
    fn legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
    ) -> std::result::Result<u32, DrawingAreaErrorKind<B::ErrorType>> {
        let px = |x: f64| (x * scale) as i32;
        let style = text(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
        let (mut x, mut y) = (px(14.0), px(16.0));
        let (width, row) = (area.dim_in_pixel().0 as i32, px(20.0));
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty()).collect();
        if named.is_empty() {
            return Ok(px(8.0) as u32);
        }
        for series in named {
            let (w, _) = area.estimate_text_size(&series.name, &style)?;
            if x + px(28.0) + w as i32 > width && x > px(14.0) {
                (x, y) = (px(14.0), y + row);
            }
            let colour = series.colour.mix(series.opacity.max(0.75));
            let (left, right) = ((x, y), (x + px(20.0), y));
            match series.look {
                Look::Line { width } => {
                    area.draw(&PathElement::new(vec![left, right], colour.stroke_width(px(width).max(1) as u32)))?;
                }
                Look::Dashed { width } => {
                    let stroke = colour.stroke_width(px(width).max(1) as u32);
                    area.draw(&PathElement::new(vec![left, (x + px(8.0), y)], stroke))?;
                    area.draw(&PathElement::new(vec![(x + px(12.0), y), right], stroke))?;
                }
                look => marker(area, (x + px(10.0), y), look, colour, scale)?,
            }
            area.draw(&Text::new(series.name.clone(), (x + px(26.0), y), style.clone()))?;
            x += px(26.0 + 18.0) + w as i32;
        }
        Ok((y + px(12.0)) as u32)
    }
}

/// One mark at a pixel.
fn marker<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    at: (i32, i32),
    look: Look,
    colour: RGBAColor,
    scale: f64,
) -> Drawn<B> {
    let px = |x: f64| (x * scale).round() as i32;
    match look {
        Look::Dots { radius } => area.draw(&Circle::new(at, px(radius), colour.filled())),
        Look::Rings { radius } => {
            area.draw(&Circle::new(at, px(radius), colour.filled()))?;
            area.draw(&Circle::new(at, px(radius * 0.5), WHITE.filled()))
        }
        Look::Cross { radius } => {
            let (r, stroke) = (px(radius), colour.stroke_width(px(2.0) as u32));
            area.draw(&PathElement::new(vec![(at.0 - r, at.1 - r), (at.0 + r, at.1 + r)], stroke))?;
            area.draw(&PathElement::new(vec![(at.0 - r, at.1 + r), (at.0 + r, at.1 - r)], stroke))
        }
        Look::Line { .. } | Look::Dashed { .. } => Ok(()),
    }
}

impl Chart for Plot {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: f64) -> Drawn<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&WHITE)?;
        let (_, body) = area.split_vertically(self.legend(area, scale)?);
        let all = || self.series.iter().flat_map(|s| &s.data);
        let (x0, x1) = Self::range(all().map(|p| self.tr(p.0)), 0.05);
        let (y0, y1) = Self::range(all().map(|p| p.1), 0.08);
        let x_ticks: Vec<f64> = match (&self.x_ticks, self.x_scale) {
            (Some(ticks), _) => ticks.clone(),
            (None, Scale::Linear) => round_ticks(x0, x1, 7),
            (None, Scale::Log) => log_ticks(x0, x1),
        };
        let y_ticks = round_ticks(y0, y1, 7);
        let (x_step, y_step) = (step_of(&x_ticks), step_of(&y_ticks));
        let mut chart = ChartBuilder::on(&body)
            .margin_left(px(8.0))
            .margin_right(px(20.0))
            .margin_top(px(4.0))
            .margin_bottom(px(4.0))
            .x_label_area_size(px(42.0))
            .y_label_area_size(px(58.0))
            .build_cartesian_2d(Axis { range: x0..x1, ticks: x_ticks }, Axis { range: y0..y1, ticks: y_ticks })?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(px(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(SOFT.stroke_width(px(1.0) as u32))
            .x_desc(self.x_name.as_str())
            .y_desc(self.y_name.as_str())
            .label_style(text(12.0, SOFT, scale))
            .axis_desc_style(text(13.0, INK, scale))
            .x_label_formatter(&|x| match self.x_scale {
                _ if !self.x_words.is_empty() => self.x_words.get(*x as usize).cloned().unwrap_or_default(),
                Scale::Linear => crate::format::tick(*x, x_step),
                Scale::Log => crate::format::si(10f64.powf(*x)),
            })
            .y_label_formatter(&|y| crate::format::tick(*y, y_step))
            .draw()?;
        let plane = chart.plotting_area();
        for series in &self.series {
            let colour = series.colour.mix(series.opacity);
            let data: Vec<(f64, f64)> = series.data.iter().map(|&(x, y)| (self.tr(x), y)).collect();
            match series.look {
                Look::Line { width } => {
                    plane.draw(&PathElement::new(data.clone(), colour.stroke_width(px(width).max(1) as u32)))?;
                }
                Look::Dashed { width } => {
                    let stroke = colour.stroke_width(px(width).max(1) as u32);
                    plane.draw(&DashedPathElement::new(data.clone(), px(7.0), px(5.0), stroke))?;
                }
                look => {
                    for &at in &data {
                        marker(area, plane.map_coordinate(&at), look, colour, scale)?;
                    }
                }
            }
            let style = text(11.0, series.colour, scale).pos(Pos::new(HPos::Left, VPos::Center));
            for (&at, words) in data.iter().zip(&series.words) {
                let (x, y) = plane.map_coordinate(&at);
                area.draw(&Text::new(words.clone(), (x + px(9.0), y + px(9.0)), style.clone()))?;
            }
        }
        Ok(())
    }
}

impl Chart for Bars {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: f64) -> Drawn<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&WHITE)?;
        let (width, height) = area.dim_in_pixel();
        let style = text(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(self.title.clone(), (px(12.0), px(16.0)), style))?;
        let (left, top) = (px(12.0), px(36.0));
        let row = (height as i32 - top - px(8.0)) / self.bars.len().max(1) as i32;
        let longest = self.bars.iter().map(|b| b.parts[0] + b.parts[1]).fold(f64::MIN_POSITIVE, f64::max);
        let room = f64::from(width as i32 - left - px(52.0 + 96.0));
        for (place, bar) in self.bars.iter().enumerate() {
            let y = top + row * place as i32;
            let (above, below) = (y + row / 8, y + row * 7 / 8);
            let start = left + px(52.0);
            let end = |share: f64| start + (room * share / longest).round() as i32;
            let name = text(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.name.clone(), (left, (above + below) / 2), name))?;
            let split = end(bar.parts[0]);
            let whole = end(bar.parts[0] + bar.parts[1]).max(start + px(2.0));
            area.draw(&Rectangle::new([(start, above), (split, below)], bar.colour.mix(0.45).filled()))?;
            area.draw(&Rectangle::new([(split, above), (whole, below)], bar.colour.filled()))?;
            let words = text(12.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(bar.words.clone(), (whole + px(7.0), (above + below) / 2), words))?;
        }
        Ok(())
    }
}

/// Round values within a range, about `count` of them.
fn round_ticks(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let raw = (hi - lo) / count as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= raw).unwrap_or(magnitude * 10.0);
    let first = (lo / step).ceil() as i64;
    (first..=(hi / step).floor() as i64).map(|k| k as f64 * step).collect()
}

/// Exponents to mark on a logarithmic axis: decades, and threes between them where decades are few.
fn log_ticks(lo: f64, hi: f64) -> Vec<f64> {
    let decades: Vec<f64> = (lo.ceil() as i64..=hi.floor() as i64).map(|k| k as f64).collect();
    if decades.len() >= 3 {
        return decades;
    }
    let mantissas: &[f64] = if hi - lo < 1.0 { &[1.0, 2.0, 3.0, 5.0] } else { &[1.0, 3.0] };
    (lo.floor() as i64..=hi.ceil() as i64)
        .flat_map(|k| mantissas.iter().map(move |m| k as f64 + m.log10()))
        .filter(|x| (lo..=hi).contains(x))
        .collect()
}

fn step_of(ticks: &[f64]) -> f64 {
    ticks.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(round_ticks(-0.1, 2.2, 6), vec![0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(log_ticks(2.7, 6.2), vec![3.0, 4.0, 5.0, 6.0]);
        assert!(log_ticks(1.1, 1.9).len() >= 2);
    }

    #[test]
    fn charts_draw_without_installed_fonts_and_with_nothing_in_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let series = Series {
            name: "PPO".into(),
            colour: INK,
            opacity: 1.0,
            look: Look::Rings { radius: 5.0 },
            data: vec![(0.0, 1.0), (1.0, f64::NAN)],
            words: vec!["β=0.1".into()],
        };
        for series in [vec![series], vec![]] {
            let plot = Plot {
                size: (300, 200),
                x_name: "KL".into(),
                y_name: "gold".into(),
                x_scale: Scale::Linear,
                x_ticks: None,
                x_words: vec![],
                series,
            };
            let svg = save(&plot, folder.path(), "plot").expect("drawn");
            assert!(svg.starts_with("<svg") && svg.contains("gold"));
            let png = std::fs::read(folder.path().join("plot.png")).expect("written");
            assert_eq!(&png[1..4], b"PNG");
        }
    }
}
