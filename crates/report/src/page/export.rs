//! One chart at a given size, for a paper.

use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::charts::catalog::all_figures;
use crate::charts::chart::Chart;
use crate::charts::output::{pdf, png, svg};
use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Pixels per inch of a PNG.
const DOTS: f64 = 300.0;

/// Width of a chart on paper, in inches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Width(f64);

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let units = [("mm", 25.4), ("cm", 2.54), ("in", 1.0), ("pt", 72.0), ("px", 96.0)];
        let inches = units
            .iter()
            .find_map(|(unit, per_inch)| Some(text.strip_suffix(unit)?.trim().parse::<f64>().ok()? / per_inch));
        match inches {
            Some(inches) if (0.5..=50.0).contains(&inches) => Ok(Self(inches)),
            Some(_) => Err("half an inch to 50 inches are accepted".into()),
            None => Err("a number with mm, cm, in, pt or px is accepted, for example 84mm".into()),
        }
    }
}

/// File format of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChartFormat {
    Svg,
    Png,
    Pdf,
}

impl FromStr for ChartFormat {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::Svg, Self::Png, Self::Pdf]
            .into_iter()
            .find(|f| f.to_string() == text)
            .ok_or("svg, png and pdf are accepted".into())
    }
}

impl fmt::Display for ChartFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Svg => "svg",
            Self::Png => "png",
            Self::Pdf => "pdf",
        })
    }
}

/// Colors of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

impl FromStr for Theme {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "light" => Ok(Self::Light),
            "dark" => Ok(Self::Dark),
            _ => Err("light and dark are accepted".into()),
        }
    }
}

impl fmt::Display for Theme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Light { "light" } else { "dark" })
    }
}

/// Names of the charts that a run has.
///
/// # Errors
/// A run whose parquet files are missing or damaged.
pub fn figures(run: &Path) -> Result<Vec<String>> {
    let run = Run::read(run)?;
    Ok(all_figures(&run, &TuningResults::for_run(&run)?).into_iter().map(|chart| chart.name).collect())
}

/// The bytes of one chart of this width: an SVG or a PDF of that size, a PNG of 300 dots per inch. With them the warnings to read
/// before believing it.
///
/// # Errors
/// A run whose tables are damaged, or not of its experiment; a chart that it does not have.
pub fn figure(
    run: &Path,
    name: &str,
    Width(inches): Width,
    format: ChartFormat,
    theme: Theme,
) -> Result<(Vec<u8>, Vec<String>)> {
    let run = Run::read(run)?;
    let all = all_figures(&run, &TuningResults::for_run(&run)?);
    let Some(chart) = all.iter().find(|chart| chart.name == name) else {
        let known = all.into_iter().map(|chart| chart.name).collect();
        return Err(Error::NoFigure { name: name.into(), known });
    };
    let (drawing, is_dark) = (&chart.chart, theme == Theme::Dark);
    let (width, height) = drawing.size();
    let bytes = match format {
        ChartFormat::Svg => {
            let (svg, _) = svg(drawing, is_dark)?;
            let opening_tag = format!("<svg width=\"{width}\" height=\"{height}\"");
            let tall = inches * f64::from(height) / f64::from(width);
            svg.replacen(&opening_tag, &format!("<svg width=\"{inches:.4}in\" height=\"{tall:.4}in\""), 1).into_bytes()
        }
        ChartFormat::Png => png(drawing, inches * DOTS / f64::from(width), is_dark)?,
        ChartFormat::Pdf => pdf(drawing, inches * 72.0, is_dark)?,
    };
    Ok((bytes, run.notes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_parsed_with_their_units() {
        let parsed = |text: &str| text.parse::<Width>().map(|w| (w.0 * 1000.0).round());
        assert_eq!(
            [parsed("84mm"), parsed("8.4 cm"), parsed("3.3in"), parsed("240pt"), parsed("96px")]
                .map(|w| w.unwrap_or(0.0)),
            [3307.0, 3307.0, 3300.0, 3333.0, 1000.0]
        );
        assert!(["84", "wide", "-3in", "1mm", "infin"].iter().all(|text| parsed(text).is_err()));
    }
}
