//! What every chart can do: be drawn at any scale by any backend, and give its numbers.

use plotters::coord::Shift;
use plotters::prelude::*;

pub(super) const FONT: &str = "sans-serif";

/// A position on a chart and the text that is shown there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Tooltip {
    pub(crate) x: i32,
    pub(crate) y: i32,
    #[serde(rename = "words")]
    pub(crate) text: String,
}

pub(crate) type DrawResult<B, T = ()> = std::result::Result<T, DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// Something that can be drawn at any scale.
pub(crate) trait Chart {
    fn size(&self) -> (u32, u32);
    /// The tooltips are positioned in pixels of what is drawn.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: f64,
        tooltips: &mut Vec<Tooltip>,
    ) -> DrawResult<B>;
    /// Its numbers: the head and the rows of a table.
    fn numbers(&self) -> (Vec<String>, Vec<Vec<String>>);
}

/// A text style: size in SVG pixels, color.
pub(crate) fn text_style(size: f64, color: RGBColor, scale: f64) -> TextStyle<'static> {
    TextStyle { color: color.to_backend_color(), ..TextStyle::from((FONT, size * scale).into_font()) }
}

/// A number with seven significant digits at most.
pub(crate) fn exact_digits(x: f64) -> String {
    format!("{:.6e}", x).parse::<f64>().map_or_else(|_| x.to_string(), |x| (x + 0.0).to_string()) // −0 is 0
}
