//! Charts as SVG, PNG and PDF, light and dark, with a font that is part of the binary.

use crate::charts::bars::Bars;
use crate::charts::chart::{Chart, DrawResult, FONT, Tooltip};
use crate::charts::heatmap::Heatmap;
use crate::charts::parallel::Parallel;
use crate::charts::pdf::Pdf;
use crate::charts::plot::Plot;
use crate::charts::theme::Dark;
use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;
use std::sync::Once;

/// A chart of any kind.
#[derive(Debug, Clone)]
pub(crate) enum AnyChart {
    Plot(Plot),
    Bars(Bars),
    Parallel(Parallel),
    Heatmap(Heatmap),
}

impl Chart for AnyChart {
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Plot(chart) => chart.size(),
            Self::Bars(chart) => chart.size(),
            Self::Parallel(chart) => chart.size(),
            Self::Heatmap(chart) => chart.size(),
        }
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        tooltips: &mut Vec<Tooltip>,
    ) -> DrawResult<B> {
        match self {
            Self::Plot(chart) => chart.draw(area, scale, tooltips),
            Self::Bars(chart) => chart.draw(area, scale, tooltips),
            Self::Parallel(chart) => chart.draw(area, scale, tooltips),
            Self::Heatmap(chart) => chart.draw(area, scale, tooltips),
        }
    }

    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>) {
        match self {
            Self::Plot(chart) => chart.numbers(),
            Self::Bars(chart) => chart.numbers(),
            Self::Parallel(chart) => chart.numbers(),
            Self::Heatmap(chart) => chart.numbers(),
        }
    }
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The font is known to parse; if it did not, drawing would return an error.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

/// Draws to a backend, in the light or the dark theme.
fn draw_to<B: DrawingBackend>(chart: &impl Chart, backend: B, scale: f64, is_dark: bool) -> Result<Vec<Tooltip>> {
    fn draw_all<B: DrawingBackend>(
        chart: &impl Chart,
        backend: B,
        scale: f64,
    ) -> std::result::Result<Vec<Tooltip>, String> {
        let mut tooltips = vec![];
        let area = backend.into_drawing_area();
        chart.draw(&area, scale, &mut tooltips).map_err(|e| e.to_string())?;
        area.present().map_err(|e| e.to_string())?;
        Ok(tooltips)
    }
    register_fonts();
    let tooltips = if is_dark { draw_all(chart, Dark(backend), scale) } else { draw_all(chart, backend, scale) };
    tooltips.map_err(|problem| Error::Chart { problem })
}

/// An SVG of the chart's own size, and its tooltips.
pub(crate) fn svg(chart: &impl Chart, is_dark: bool) -> Result<(String, Vec<Tooltip>)> {
    let mut svg = String::new();
    let tooltips = draw_to(chart, SVGBackend::with_string(&mut svg, chart.size()), 1.0, is_dark)?;
    Ok((svg, tooltips))
}

/// The bytes of a PNG with `scale` pixels per pixel of the chart.
pub(crate) fn png(chart: &impl Chart, scale: f64, is_dark: bool) -> Result<Vec<u8>> {
    let [width, height] = [chart.size().0, chart.size().1].map(|side| (f64::from(side) * scale).round() as u32);
    let mut pixels = vec![0; (width * height * 3) as usize];
    draw_to(chart, BitMapBackend::with_buffer(&mut pixels, (width, height)), scale, is_dark)?;
    encode_png(&pixels, width, height).map_err(|e| Error::Chart { problem: e.to_string() })
}

/// Units of a PDF drawing per pixel of the chart: coordinates are whole numbers there.
const PDF_GRAIN: f64 = 16.0;

/// The bytes of a PDF, `points` wide.
pub(crate) fn pdf(chart: &impl Chart, points: f64, is_dark: bool) -> Result<Vec<u8>> {
    let (width, height) = chart.size();
    let size_in_grains = [width, height].map(|side| (f64::from(side) * PDF_GRAIN) as u32);
    let mut bytes = vec![];
    draw_to(chart, Pdf::new(&mut bytes, (size_in_grains[0], size_in_grains[1]), points), PDF_GRAIN, is_dark)?;
    Ok(bytes)
}

/// Pixels of a PNG per pixel of the SVG: sharp in print.
const PNG_SCALE: f64 = 3.0;

/// Writes `<name>.svg` and `<name>.png` into a folder and returns the SVG and its tooltips.
pub(crate) fn save(chart: &impl Chart, folder: &Path, name: &str) -> Result<(String, Vec<Tooltip>)> {
    let (svg, tooltips) = svg(chart, false)?;
    duel_ledger::write_atomically(&folder.join(format!("{name}.svg")), svg.as_bytes())?;
    duel_ledger::write_atomically(&folder.join(format!("{name}.png")), &png(chart, PNG_SCALE, false)?)?;
    Ok((svg, tooltips))
}

/// Red, green and blue of every pixel as the bytes of a file.
fn encode_png(pixels: &[u8], width: u32, height: u32) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charts::axes::{Scale, log_ticks, round_ticks};
    use crate::charts::marks::{MarkStyle, Series};
    use crate::charts::theme::{INK, palette_color};

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

    /// The texts that are drawn on a plot, and the positions of its points.
    fn drawn_texts(plot: &Plot) -> (Vec<String>, Vec<Tooltip>) {
        let (svg, tooltips) = svg(plot, false).expect("drawn");
        let texts = svg.split("<text").skip(1).filter_map(|part| part.split('>').nth(1)?.split("</text").next());
        (texts.map(|text| text.trim().to_string()).filter(|text| !text.is_empty()).collect(), tooltips)
    }

    /// One point, equal ones, zeros, tiny and huge ranges, on either axis: every point within the frame, no label twice on one axis.
    #[test]
    fn tick_labels_are_distinct_on_every_range() {
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
                let ((x0, x1), (svg, tooltips)) = (plot.x_range(), svg(&plot, false).expect("drawn"));
                let placed = data.iter().filter(|p| x_scale == Scale::Linear || p.0 > 0.0).count();
                assert!(
                    tooltips.len() == placed
                        && tooltips.iter().all(|s| (0..400).contains(&s.x) && (0..300).contains(&s.y)),
                    "{data:?} {tooltips:?}"
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

    /// A line of one point is a dot, and points without a position are left out: NaN, infinity, and zero on a logarithmic axis.
    #[test]
    fn a_single_point_is_visible_and_points_without_a_position_are_left_out() {
        let one = Series::new(MarkStyle::Line { width: 2.0 }, palette_color(0), vec![(3.0, 1.0)]).named("PPO");
        let (draw_to, tooltips) =
            svg(&Plot::new((400, 300), "steps", "gold", vec![one.clone()]), false).expect("drawn");
        assert!(draw_to.contains("<circle") && tooltips.len() == 1, "{draw_to}");
        let many = vec![(0.0, 1.0), (10.0, 2.0), (100.0, f64::NAN), (f64::INFINITY, 1.0), (1000.0, 3.0)];
        let line = Series {
            labels: vec!["first".into(), "second".into(), "third".into()],
            ..Series::new(MarkStyle::Line { width: 2.0 }, INK, many)
        };
        let plot = Plot { x_scale: Scale::Log, ..Plot::new((400, 300), "steps", "gold", vec![line]) };
        let (texts, tooltips) = drawn_texts(&plot);
        assert_eq!(
            tooltips.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(),
            ["second · steps 10.000 · gold 2.000", "third · steps 1 k · gold 3.000"]
        );
        assert!(texts.contains(&"10".to_string()) && texts.contains(&"1 k".to_string()), "{texts:?}");
    }

    /// The same chart in the light and in the dark theme; and as a complete PDF.
    #[test]
    fn a_chart_has_a_light_and_a_dark_theme() {
        let line =
            Series::new(MarkStyle::Line { width: 2.0 }, palette_color(0), vec![(0.0, 1.0), (1.0, 2.0)]).named("PPO");
        let plot = Plot::new((300, 200), "√KL", "gold", vec![line]);
        let [(light_svg, tooltips), (dark_svg, dark_tooltips)] =
            [false, true].map(|dark| svg(&plot, dark).expect("drawn"));
        assert!(light_svg.contains("#FFFFFF") && !dark_svg.contains("#FFFFFF") && dark_svg.contains("#15171C"));
        assert!(
            tooltips == dark_tooltips && tooltips.len() == 2 && tooltips[1].text == "PPO · √KL 1.000 · gold 2.000",
            "{tooltips:?}"
        );
        let pdf = pdf(&plot, 200.0, false).expect("drawn");
        assert!(pdf.starts_with(b"%PDF-1.7") && pdf.ends_with(b"%%EOF"));
    }
}
