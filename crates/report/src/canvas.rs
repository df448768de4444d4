//! Charts of a few kinds, drawn alike to SVG, PNG and PDF, light and dark, with a font that comes along.

use crate::pdf::Pdf;
use crate::theme::{Dark, INK, LINE, PAPER, SOFT, colour_at};
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
/// Beyond which nothing is drawn, so that the length of an axis is a number.
const LARGEST: f64 = 1e300;
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
    /// A line to the right and left of every other point: an interval along x.
    Whiskers {
        width: f64,
    },
}

/// Points or a line of one colour.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Written at its end, or in the legend where it has none; empty for none.
    pub(crate) name: String,
    /// What it is, for whoever points at it and in the table of the chart.
    pub(crate) about: String,
    pub(crate) colour: RGBColor,
    pub(crate) opacity: f64,
    pub(crate) look: MarkStyle,
    pub(crate) data: Vec<(f64, f64)>,
    /// Words beside each point; empty for none.
    pub(crate) words: Vec<String>,
}

impl Series {
    /// Without name or words; what no axis can hold is left out.
    pub(crate) fn new(look: MarkStyle, colour: RGBColor, mut data: Vec<(f64, f64)>) -> Self {
        data.retain(|(x, y)| x.abs() <= LARGEST && y.abs() <= LARGEST);
        Self { name: String::new(), about: String::new(), colour, opacity: 1.0, look, data, words: vec![] }
    }

    pub(crate) fn named(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let about = if self.about.is_empty() { name.clone() } else { self.about };
        Self { name, about, ..self }
    }

    pub(crate) fn about(self, about: impl Into<String>) -> Self {
        Self { about: about.into(), ..self }
    }

    pub(crate) fn faint(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }

    pub(crate) fn with_labels(self, words: Vec<String>) -> Self {
        Self { words, ..self }
    }

    /// The interval between two lines over the same x.
    pub(crate) fn band(colour: RGBColor, low: &[(f64, f64)], high: &[(f64, f64)]) -> Self {
        let around = high.iter().chain(low.iter().rev()).copied().collect();
        Self::new(MarkStyle::Band, colour, around).faint(0.16)
    }

    fn ends_with_name(&self) -> bool {
        matches!(self.look, MarkStyle::Line { .. } | MarkStyle::Dashed { .. } | MarkStyle::Rings { .. })
    }
}

/// A place on a chart with what stands there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Tooltip {
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) words: String,
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
    pub(crate) y_words: Vec<String>,
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
            x_words: vec![],
            y_words: vec![],
            series,
        }
    }
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

/// Shares of a square table, by row and column.
#[derive(Debug, Clone)]
pub(crate) struct Heatmap {
    pub(crate) size: (u32, u32),
    pub(crate) names: Vec<String>,
    /// `None` where there is nothing to say.
    pub(crate) shares: Vec<Vec<Option<f64>>>,
    pub(crate) words: Vec<Vec<String>>,
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

pub(crate) type DrawResult<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// Something that can be drawn at any scale.
pub(crate) trait Chart {
    fn size(&self) -> (u32, u32);
    /// The places that it tells of are in pixels of what is drawn.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        spots: &mut Vec<Tooltip>,
    ) -> DrawResult<B>;
    /// Its numbers: the head and the rows of a table.
    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>);
}

/// Any of them.
#[derive(Debug, Clone)]
pub(crate) enum AnyChart {
    Plot(Plot),
    Bars(Bars),
    Parallel(crate::parallel::Parallel),
    Matrix(Heatmap),
}

impl Chart for AnyChart {
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Plot(chart) => chart.size(),
            Self::Bars(chart) => chart.size(),
            Self::Parallel(chart) => chart.size(),
            Self::Matrix(chart) => chart.size(),
        }
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        spots: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        match self {
            Self::Plot(chart) => chart.draw(area, scale, spots),
            Self::Bars(chart) => chart.draw(area, scale, spots),
            Self::Parallel(chart) => chart.draw(area, scale, spots),
            Self::Matrix(chart) => chart.draw(area, scale, spots),
        }
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        match self {
            Self::Plot(chart) => chart.numbers(),
            Self::Bars(chart) => chart.numbers(),
            Self::Parallel(chart) => chart.numbers(),
            Self::Matrix(chart) => chart.numbers(),
        }
    }
}

fn with_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The bytes are a font that is known to parse; were they not, drawing says so.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

/// Draws to a backend, in the colours of the day or of the night.
fn drawn<B: DrawingBackend>(chart: &impl Chart, backend: B, scale: f64, is_dark: bool) -> Result<Vec<Tooltip>> {
    fn whole<B: DrawingBackend>(
        chart: &impl Chart,
        backend: B,
        scale: f64,
    ) -> std::result::Result<Vec<Tooltip>, String> {
        let mut spots = vec![];
        let area = backend.into_drawing_area();
        chart.draw(&area, scale, &mut spots).map_err(|e| e.to_string())?;
        area.present().map_err(|e| e.to_string())?;
        Ok(spots)
    }
    with_font();
    let found = if is_dark { whole(chart, Dark(backend), scale) } else { whole(chart, backend, scale) };
    found.map_err(|problem| Error::Chart { problem })
}

/// An SVG of the chart's own size, and the places on it.
pub(crate) fn svg(chart: &impl Chart, is_dark: bool) -> Result<(String, Vec<Tooltip>)> {
    let mut svg = String::new();
    let spots = drawn(chart, SVGBackend::with_string(&mut svg, chart.size()), 1.0, is_dark)?;
    Ok((svg, spots))
}

/// The bytes of a PNG, so many pixels for one of the chart.
pub(crate) fn png(chart: &impl Chart, scale: f64, is_dark: bool) -> Result<Vec<u8>> {
    let [width, height] = [chart.size().0, chart.size().1].map(|side| (f64::from(side) * scale).round() as u32);
    let mut pixels = vec![0; (width * height * 3) as usize];
    drawn(chart, BitMapBackend::with_buffer(&mut pixels, (width, height)), scale, is_dark)?;
    png_of(&pixels, width, height).map_err(|e| Error::Chart { problem: e.to_string() })
}

/// Units of a PDF's drawing for a pixel of the chart: places are whole numbers there.
const PDF_GRAIN: f64 = 16.0;

/// The bytes of a PDF, so many points wide.
pub(crate) fn pdf(chart: &impl Chart, points: f64, is_dark: bool) -> Result<Vec<u8>> {
    let (width, height) = chart.size();
    let grains = [width, height].map(|side| (f64::from(side) * PDF_GRAIN) as u32);
    let mut bytes = vec![];
    drawn(chart, Pdf::new(&mut bytes, (grains[0], grains[1]), points), PDF_GRAIN, is_dark)?;
    Ok(bytes)
}

/// Pixels of a PNG beside the page for one of the SVG: sharp in print.
const PNG_SCALE: f64 = 3.0;

/// Writes `<name>.svg` and `<name>.png` into a folder and returns the SVG and the places on it.
pub(crate) fn save(chart: &impl Chart, folder: &Path, name: &str) -> Result<(String, Vec<Tooltip>)> {
    let (svg, spots) = svg(chart, false)?;
    duel_ledger::write_atomically(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
    duel_ledger::write_atomically(&folder.join(format!("{name}.png")), &png(chart, PNG_SCALE, false)?)?;
    Ok((svg, spots))
}

/// Red, green and blue of every pixel as the bytes of a file.
fn png_of(pixels: &[u8], width: u32, height: u32) -> std::result::Result<Vec<u8>, png::EncodingError> {
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
            Scale::Log => x.log10(),
        }
    }

    /// The points of a series that have a place on the axes, with their places in it: a logarithmic axis has none for zero.
    fn placed(&self, series: &Series) -> Vec<(usize, (f64, f64))> {
        let has_place = |(x, _): &(f64, f64)| self.x_scale == Scale::Linear || *x > 0.0;
        let at = |(place, (x, y)): (usize, (f64, f64))| (place, (self.tr(x), y));
        series.data.iter().copied().enumerate().filter(|(_, point)| has_place(point)).map(at).collect()
    }

    /// The ends of an axis, a share of its length beyond what it holds, or at least so far from a single value.
    fn range(values: impl Iterator<Item = f64>, pad: f64, least: impl Fn(f64) -> f64) -> (f64, f64) {
        let (lo, hi) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
        if lo > hi {
            return (0.0, 1.0);
        }
        let margin = ((hi - lo) * pad).max(least(lo.abs().max(hi.abs())));
        (lo - margin, hi + margin)
    }

    /// Ends of the axis of x: in log a single value stands in the middle of a factor of four.
    fn x_range(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| self.placed(series)).map(|(_, at)| at.0);
        match self.x_scale {
            Scale::Linear => Self::range(values, 0.05, beside),
            Scale::Log => {
                let (lo, hi) = Self::range(values, 0.05, |_| 0.0);
                if hi > lo { (lo, hi) } else { (lo - LOG_ROOM, hi + LOG_ROOM) }
            }
        }
    }

    /// The words at the ticks of an axis.
    fn x_labels(&self, ticks: &[f64]) -> Vec<String> {
        match self.x_scale {
            _ if !self.x_words.is_empty() => {
                ticks.iter().map(|x| self.x_words.get(x.round() as usize).cloned().unwrap_or_default()).collect()
            }
            Scale::Linear => crate::format::ticks(ticks),
            Scale::Log => crate::format::log_ticks(&ticks.iter().map(|x| 10f64.powf(*x)).collect::<Vec<_>>()),
        }
    }

    /// Whether a series has its name at its end: where there is a value at all.
    fn is_at_end(&self, series: &Series) -> bool {
        series.ends_with_name() && self.y_words.is_empty() && !self.placed(series).is_empty()
    }

    /// Names at the ends of their lines, pushed apart where they would cover each other.
    fn end_names<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        at: impl Fn((f64, f64)) -> (i32, i32),
    ) -> DrawResult<B> {
        let px = |x: f64| (x * scale) as i32;
        let size = area.dim_in_pixel();
        let mut names = vec![];
        for series in self.series.iter().filter(|s| !s.name.is_empty() && self.is_at_end(s)) {
            let Some(&(_, last)) = self.placed(series).last() else { continue };
            let style = text(12.0, series.colour, scale).pos(Pos::new(HPos::Left, VPos::Center));
            let (w, h) = area.estimate_text_size(&series.name, &style)?;
            let (x, y) = at(last);
            let x = (x + px(8.0)).min(size.0 as i32 - w as i32 - px(2.0));
            names.push((x, y, w as i32, h as i32, &series.name, style));
        }
        names.sort_by_key(|name| name.1);
        let mut placed: Vec<(i32, i32, i32)> = vec![]; // left, right, y
        for (x, mut y, w, h, name, style) in names {
            let row = h.max(px(13.0));
            for (left, right, above) in &placed {
                if x < *right && *left < x + w && y < above + row {
                    y = above + row;
                }
            }
            y = y.min(size.1 as i32 - row / 2);
            placed.push((x, x + w, y));
            let behind = [(x - px(1.0), y - h / 2), (x + w + px(1.0), y + h / 2)];
            area.draw(&Rectangle::new(behind, PAPER.mix(0.7).filled()))?;
            area.draw(&Text::new(name.clone(), (x, y), style))?;
        }
        Ok(())
    }

    /// Room at the right for names that end there.
    fn room_for_names<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        right: f64,
    ) -> std::result::Result<i32, DrawingAreaErrorKind<B::ErrorType>> {
        let mut room = (20.0 * scale) as i32;
        for series in self.series.iter().filter(|s| !s.name.is_empty() && self.is_at_end(s)) {
            let last = self.placed(series).last().map_or(f64::NAN, |(_, at)| at.0);
            if last >= right {
                let (w, _) = area.estimate_text_size(&series.name, &text(12.0, INK, scale))?;
                room = room.max(w as i32 + (12.0 * scale) as i32);
            }
        }
        Ok(room.min(area.dim_in_pixel().0 as i32 / 3))
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
        let named: Vec<&Series> = self.series.iter().filter(|s| !s.name.is_empty() && !self.is_at_end(s)).collect();
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
                MarkStyle::Line { width } => {
                    area.draw(&PathElement::new(vec![left, right], colour.stroke_width(px(width).max(1) as u32)))?;
                }
                MarkStyle::Dashed { width } => {
                    let stroke = colour.stroke_width(px(width).max(1) as u32);
                    area.draw(&PathElement::new(vec![left, (x + px(8.0), y)], stroke))?;
                    area.draw(&PathElement::new(vec![(x + px(12.0), y), right], stroke))?;
                }
                MarkStyle::Band => {
                    let corners = [(x, y - px(6.0)), (x + px(20.0), y + px(6.0))];
                    area.draw(&Rectangle::new(corners, series.colour.mix(0.25).filled()))?;
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
    look: MarkStyle,
    colour: RGBAColor,
    scale: f64,
) -> DrawResult<B> {
    let px = |x: f64| (x * scale).round() as i32;
    match look {
        MarkStyle::Dots { radius } => area.draw(&Circle::new(at, px(radius), colour.filled())),
        MarkStyle::Rings { radius } => {
            area.draw(&Circle::new(at, px(radius), colour.filled()))?;
            area.draw(&Circle::new(at, px(radius * 0.5), PAPER.filled()))
        }
        MarkStyle::Cross { radius } => {
            let (r, stroke) = (px(radius), colour.stroke_width(px(2.0) as u32));
            area.draw(&PathElement::new(vec![(at.0 - r, at.1 - r), (at.0 + r, at.1 + r)], stroke))?;
            area.draw(&PathElement::new(vec![(at.0 - r, at.1 + r), (at.0 + r, at.1 - r)], stroke))
        }
        MarkStyle::Line { .. } | MarkStyle::Dashed { .. } | MarkStyle::Band | MarkStyle::Whiskers { .. } => Ok(()),
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
        spots: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&PAPER)?;
        let (_, body) = area.split_vertically(self.legend(area, scale)?);
        let (x0, x1) = self.x_range();
        let (y0, y1) = match self.y_words.len() {
            0 => Self::range(self.series.iter().flat_map(|s| self.placed(s)).map(|(_, at)| at.1), 0.08, beside),
            rows => (rows as f64 - 0.5, -0.5), // the first on top
        };
        let x_ticks: Vec<f64> = match (&self.x_ticks, self.x_scale) {
            (Some(ticks), _) => ticks.clone(),
            (None, Scale::Linear) => round_ticks(x0, x1, 7),
            (None, Scale::Log) => log_ticks(x0, x1),
        };
        let y_ticks = match self.y_words.len() {
            0 => round_ticks(y0, y1, 7),
            rows => (0..rows).map(|row| row as f64).collect(),
        };
        let (x_labels, y_labels) = (self.x_labels(&x_ticks), crate::format::ticks(&y_ticks));
        let of = |ticks: &[f64], labels: &[String], at: f64| {
            ticks.iter().position(|tick| *tick == at).map_or(String::new(), |place| labels[place].clone())
        };
        let mut left = px(58.0);
        for words in &self.y_words {
            let (w, _) = area.estimate_text_size(words, &text(12.0, INK, scale))?;
            left = left.max(w as i32 + px(14.0));
        }
        if self.y_name.is_empty() && !self.y_words.is_empty() {
            left -= px(4.0);
        }
        let mut chart = ChartBuilder::on(&body)
            .margin_left(px(8.0))
            .margin_right(self.room_for_names(area, scale, x0 + (x1 - x0) * 0.7)?)
            .margin_top(px(6.0))
            .margin_bottom(px(4.0))
            .x_label_area_size(px(42.0))
            .y_label_area_size(left)
            .build_cartesian_2d(
                Axis { range: x0..x1, ticks: x_ticks.clone() },
                Axis { range: y0..y1, ticks: y_ticks.clone() },
            )?;
        chart
            .configure_mesh()
            .bold_line_style(LINE.stroke_width(px(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(SOFT.stroke_width(px(1.0) as u32))
            .set_all_tick_mark_size(px(5.0))
            .x_desc(self.x_name.as_str())
            .y_desc(self.y_name.as_str())
            .label_style(text(12.0, SOFT, scale))
            .axis_desc_style(text(13.0, INK, scale))
            .x_label_formatter(&|x| of(&x_ticks, &x_labels, *x))
            .y_label_formatter(&|y| match self.y_words.get(*y as usize) {
                Some(words) => words.clone(),
                None => of(&y_ticks, &y_labels, *y),
            })
            .draw()?;
        let plane = chart.plotting_area();
        for series in &self.series {
            let colour = series.colour.mix(series.opacity);
            let (places, data): (Vec<usize>, Vec<(f64, f64)>) = self.placed(series).into_iter().unzip();
            let is_one_place = data.iter().all(|at| plane.map_coordinate(at) == plane.map_coordinate(&data[0]));
            match series.look {
                // a line of one point would be nothing
                MarkStyle::Line { width } | MarkStyle::Dashed { width } if is_one_place => {
                    if let Some(at) = data.first() {
                        marker(area, plane.map_coordinate(at), MarkStyle::Dots { radius: width + 1.0 }, colour, scale)?;
                    }
                }
                MarkStyle::Line { width } => {
                    plane.draw(&PathElement::new(data.clone(), colour.stroke_width(px(width).max(1) as u32)))?;
                }
                MarkStyle::Dashed { width } => {
                    let stroke = colour.stroke_width(px(width).max(1) as u32);
                    plane.draw(&DashedPathElement::new(data.clone(), px(7.0), px(5.0), stroke))?;
                }
                MarkStyle::Band if data.len() > 2 => plane.draw(&Polygon::new(data.clone(), colour.filled()))?,
                MarkStyle::Band => plane.draw(&PathElement::new(data.clone(), colour.stroke_width(px(4.0) as u32)))?,
                MarkStyle::Whiskers { width } => {
                    for ends in data.chunks_exact(2) {
                        plane.draw(&PathElement::new(ends.to_vec(), colour.stroke_width(px(width).max(1) as u32)))?;
                    }
                }
                look => {
                    for &at in &data {
                        marker(area, plane.map_coordinate(&at), look, colour, scale)?;
                    }
                }
            }
            let style = text(10.5, series.colour, scale).pos(Pos::new(HPos::Left, VPos::Center));
            for (&at, place) in data.iter().zip(&places) {
                let Some(words) = series.words.get(*place) else { continue };
                let (x, y) = plane.map_coordinate(&at);
                area.draw(&Text::new(words.clone(), (x + px(8.0), y + px(10.0)), style.clone()))?;
            }
            if !matches!(series.look, MarkStyle::Band | MarkStyle::Whiskers { .. }) && data.len() <= MANY {
                for (&at, &place) in data.iter().zip(&places) {
                    let (x, y) = plane.map_coordinate(&at);
                    spots.push(Tooltip { x, y, words: self.tooltip_text(series, place) });
                }
            }
        }
        self.end_names(area, scale, |at| plane.map_coordinate(&at))
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let y_name = if self.y_name.is_empty() { "of" } else { &self.y_name };
        let head = ["series", self.x_name.as_str(), y_name, "words"].map(String::from).to_vec();
        let row = |series: &Series, place: usize, (x, y): (f64, f64)| {
            let name = |words: &[String], value: f64| match words.get(value.round() as usize) {
                Some(word) => word.clone(),
                None => exact_digits(value),
            };
            let words = series.words.get(place).cloned().unwrap_or_default();
            vec![series.about.clone(), name(&self.x_words, x), name(&self.y_words, y), words]
        };
        let rows = |series: &Series| {
            series.data.iter().enumerate().map(|(place, &at)| row(series, place, at)).collect::<Vec<_>>()
        };
        (head, self.series.iter().flat_map(rows).collect())
    }
}

/// Points of a series beyond which they are not told of one by one.
const MANY: usize = 400;

/// A number with the digits that it has, and no more than make a difference.
pub(crate) fn exact_digits(x: f64) -> String {
    format!("{:.6e}", x).parse::<f64>().map_or_else(|_| x.to_string(), |x| (x + 0.0).to_string()) // −0 is 0
}

impl Plot {
    /// What stands at a point, in words.
    fn tooltip_text(&self, series: &Series, place: usize) -> String {
        let (x, y) = series.data[place];
        let short = |name: &str| name.split([',', '(']).next().unwrap_or_default().trim().to_string();
        let value = |x: f64| match x.abs() {
            far if far >= 1000.0 || (far < 0.001 && far > 0.0) => crate::format::si(x),
            _ => crate::format::fixed(x, 3),
        };
        let part = |name: &str, words: &[String], x: f64| match words.get(x.round() as usize) {
            Some(word) => word.clone(),
            None => format!("{} {}", short(name), value(x)),
        };
        let named = [Some(&series.about), series.words.get(place)].into_iter().flatten().filter(|w| !w.is_empty());
        let mut all: Vec<String> = named.cloned().collect();
        all.push(part(&self.x_name, &self.x_words, x));
        all.push(part(&self.y_name, &self.y_words, y));
        all.join(" · ")
    }
}

impl Chart for Bars {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        spots: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&PAPER)?;
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
            let told = format!("{} · {} · {}", self.title, bar.name, bar.words);
            spots.push(Tooltip { x: whole, y: (above + below) / 2, words: told });
        }
        Ok(())
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head = vec!["bar".into(), format!("{}: before the loop", self.title), "in it".into()];
        (
            head,
            self.bars
                .iter()
                .map(|bar| vec![bar.name.clone(), exact_digits(bar.parts[0]), exact_digits(bar.parts[1])])
                .collect(),
        )
    }
}

impl Chart for Heatmap {
    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        spots: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        let px = |x: f64| (x * scale) as i32;
        area.fill(&PAPER)?;
        let (width, height) = area.dim_in_pixel();
        let mut left = px(40.0);
        for name in &self.names {
            left = left.max(area.estimate_text_size(name, &text(12.0, INK, scale))?.0 as i32 + px(20.0));
        }
        let (top, n) = (px(36.0), self.names.len().max(1) as i32);
        let (wide, high) = ((width as i32 - left - px(8.0)) / n, (height as i32 - top - px(8.0)) / n);
        for (row, name) in self.names.iter().enumerate() {
            let y = top + high * row as i32 + high / 2;
            let right = text(12.0, INK, scale).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), (left - px(8.0), y), right))?;
            let middle = text(12.0, INK, scale).pos(Pos::new(HPos::Center, VPos::Center));
            let x = left + wide * row as i32 + wide / 2;
            area.draw(&Text::new(name.clone(), (x, px(18.0)), middle.clone()))?;
            for (column, other) in self.names.iter().enumerate() {
                let x = left + wide * column as i32;
                let corners = [(x + px(1.0), y - high / 2 + px(1.0)), (x + wide - px(1.0), y + high / 2 - px(1.0))];
                if let Some(share) = self.shares[row][column].filter(|share| share.is_finite()) {
                    let colour = colour_at(usize::from(share < 0.5)).mix((share - 0.5).abs().min(0.5) * 1.4);
                    area.draw(&Rectangle::new(corners, colour.filled()))?;
                }
                area.draw(&Rectangle::new(corners, LINE.stroke_width(px(1.0) as u32)))?;
                let words = &self.words[row][column];
                area.draw(&Text::new(words.clone(), (x + wide / 2, y), middle.clone()))?;
                spots.push(Tooltip { x: x + wide / 2, y, words: format!("{name} against {other} · {words}") });
            }
        }
        Ok(())
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let head =
            std::iter::once("wins of the row against the column".to_string()).chain(self.names.clone()).collect();
        let row = |(name, words): (&String, &Vec<String>)| std::iter::once(name.clone()).chain(words.clone()).collect();
        (head, self.names.iter().zip(&self.words).map(row).collect())
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
    let ticks: Vec<f64> = (lo.floor() as i64..=hi.ceil() as i64)
        .flat_map(|k| mantissas.iter().map(move |m| k as f64 + m.log10()))
        .filter(|x| (lo..=hi).contains(x))
        .collect();
    if ticks.len() >= 2 {
        return ticks;
    }
    round_ticks(10f64.powf(lo), 10f64.powf(hi), 4).into_iter().map(f64::log10).filter(|x| x.is_finite()).collect()
}

/// Decades beside a single value on a logarithmic axis.
const LOG_ROOM: f64 = 0.3;

/// Room beside a single value of this size.
fn beside(size: f64) -> f64 {
    if size > 0.0 { size * 1e-3 } else { 1.0 }
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
        let rings = Series::new(MarkStyle::Rings { radius: 5.0 }, INK, vec![(0.0, 1.0), (1.0, f64::NAN)]);
        let series = rings.named("PPO").with_labels(vec!["β=0.1".into()]);
        for series in [vec![series], vec![]] {
            let plot = Plot::new((300, 200), "KL", "gold", series);
            let (svg, _) = save(&plot, folder.path(), "plot").expect("drawn");
            assert!(svg.starts_with("<svg") && svg.contains("gold"));
            let png = std::fs::read(folder.path().join("plot.png")).expect("written");
            assert_eq!(&png[1..4], b"PNG");
        }
    }

    /// What `draw` writes at the axes of a plot of these points, and the places of the points.
    fn drawn_texts(plot: &Plot) -> (Vec<String>, Vec<Tooltip>) {
        let (svg, spots) = svg(plot, false).expect("drawn");
        let texts = svg.split("<text").skip(1).filter_map(|part| part.split('>').nth(1)?.split("</text").next());
        (texts.map(|text| text.trim().to_string()).filter(|text| !text.is_empty()).collect(), spots)
    }

    /// One point, equal ones, zeros, tiny and huge ranges, on either axis: every point within the frame, no label twice on one axis.
    #[test]
    fn axes_tell_their_ticks_apart_whatever_they_hold() {
        let tiny = [3.0e-5, 3.1e-5];
        for data in [
            vec![(0.0, 0.0)],
            vec![(5.0, 5.0)],
            vec![(1e-9, -1e-9)],
            vec![(2e12, 1e12)],
            vec![(1.0, 2.0); 5],
            vec![(0.0, 0.0), (1e-12, 1e-13)],
            vec![(1e6, 1e6 + 1.0), (1e6 + 1.0, 1e6)],
            vec![(1.0, 1e299), (2.0, -1e299)],
            vec![(tiny[0], tiny[1]), (tiny[1], tiny[0])],
            vec![(1e-5, 0.1), (3e-5, 0.2), (1e-4, 0.3)],
            vec![(4096.0, -3.0), (4097.0, -3.0)],
        ] {
            for x_scale in [Scale::Linear, Scale::Log] {
                let series = Series::new(MarkStyle::Rings { radius: 4.0 }, INK, data.clone());
                let plot = Plot { x_scale, ..Plot::new((400, 300), "", "", vec![series]) };
                let ((x0, x1), (svg, spots)) = (plot.x_range(), svg(&plot, false).expect("drawn"));
                let placed = data.iter().filter(|p| x_scale == Scale::Linear || p.0 > 0.0).count();
                assert!(
                    spots.len() == placed && spots.iter().all(|s| (0..400).contains(&s.x) && (0..300).contains(&s.y)),
                    "{data:?} {spots:?}"
                );
                assert!(x1 > x0 && !svg.contains("NaN") && !svg.contains("inf"), "{data:?}");
                let ticks = if x_scale == Scale::Linear { round_ticks(x0, x1, 7) } else { log_ticks(x0, x1) };
                let labels = plot.x_labels(&ticks);
                let mut distinct = labels.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert!(!labels.is_empty() && distinct.len() == labels.len(), "{data:?} {x_scale:?}: {labels:?}");
            }
        }
    }

    /// A line of one point is a dot, and what cannot be placed is left out: NaN, infinity, and zero in log.
    #[test]
    fn one_point_is_seen_and_what_has_no_place_is_left_out() {
        let one = Series::new(MarkStyle::Line { width: 2.0 }, colour_at(0), vec![(3.0, 1.0)]).named("PPO");
        let (drawn, spots) = svg(&Plot::new((400, 300), "steps", "gold", vec![one.clone()]), false).expect("drawn");
        assert!(drawn.contains("<circle") && spots.len() == 1, "{drawn}");
        let many = vec![(0.0, 1.0), (10.0, 2.0), (100.0, f64::NAN), (f64::INFINITY, 1.0), (1000.0, 3.0)];
        let line = Series {
            words: vec!["first".into(), "second".into(), "third".into()],
            ..Series::new(MarkStyle::Line { width: 2.0 }, INK, many)
        };
        let plot = Plot { x_scale: Scale::Log, ..Plot::new((400, 300), "steps", "gold", vec![line]) };
        let (texts, spots) = drawn_texts(&plot);
        assert_eq!(
            spots.iter().map(|s| s.words.as_str()).collect::<Vec<_>>(),
            ["second · steps 10.000 · gold 2.000", "third · steps 1 k · gold 3.000"]
        );
        assert!(texts.contains(&"10".to_string()) && texts.contains(&"1 k".to_string()), "{texts:?}");
    }

    /// The same chart by day and by night; and as a PDF that ends as one should.
    #[test]
    fn a_chart_has_a_day_and_a_night() {
        let line = Series::new(MarkStyle::Line { width: 2.0 }, colour_at(0), vec![(0.0, 1.0), (1.0, 2.0)]).named("PPO");
        let plot = Plot::new((300, 200), "√KL", "gold", vec![line]);
        let [(day, spots), (night, same)] = [false, true].map(|dark| svg(&plot, dark).expect("drawn"));
        assert!(day.contains("#FFFFFF") && !night.contains("#FFFFFF") && night.contains("#15171C"));
        assert!(spots == same && spots.len() == 2 && spots[1].words == "PPO · √KL 1.000 · gold 2.000", "{spots:?}");
        let pdf = pdf(&plot, 200.0, false).expect("drawn");
        assert!(pdf.starts_with(b"%PDF-1.7") && pdf.ends_with(b"%%EOF"));
    }
}
