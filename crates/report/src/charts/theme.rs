//! The colors of charts and page, light and dark. Arm colors remain apart for color-blind eyes (after Okabe & Ito 2008).

use plotters::prelude::*;
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingErrorKind};

/// A color by its name on the page, in light and in dark.
pub(crate) struct Color {
    pub(crate) name: &'static str,
    pub(crate) light: RGBColor,
    pub(crate) dark: RGBColor,
}

const fn ink(name: &'static str, light: (u8, u8, u8), dark: (u8, u8, u8)) -> Color {
    Color { name, light: RGBColor(light.0, light.1, light.2), dark: RGBColor(dark.0, dark.1, dark.2) }
}

/// Every color there is. Text in `ink` and `soft` has a contrast to `paper` of at least 4.5, marks of at least 3 (WCAG 2.1).
pub(crate) const PALETTE: [Color; 13] = [
    ink("paper", (255, 255, 255), (21, 23, 28)),
    ink("ink", (34, 34, 40), (232, 233, 238)),
    ink("soft", (98, 100, 111), (165, 168, 180)),
    ink("line", (227, 229, 234), (52, 56, 66)),
    ink("ideal", (0, 128, 94), (46, 190, 148)),
    ink("grey", (120, 122, 132), (150, 153, 165)),
    ink("c0", (0, 114, 178), (74, 168, 226)),
    ink("c1", (201, 84, 0), (240, 128, 48)),
    ink("c2", (181, 84, 145), (222, 145, 192)),
    ink("c3", (156, 108, 0), (230, 172, 36)),
    ink("c4", (98, 112, 0), (178, 198, 72)),
    ink("c5", (120, 70, 40), (196, 140, 104)),
    ink("c6", (90, 60, 150), (166, 140, 226)),
];

pub(crate) const BACKGROUND: RGBColor = PALETTE[0].light;
pub(crate) const INK: RGBColor = PALETTE[1].light;
pub(crate) const MUTED: RGBColor = PALETTE[2].light;
pub(crate) const LINE: RGBColor = PALETTE[3].light;
pub(crate) const IDEAL: RGBColor = PALETTE[4].light;
pub(crate) const GREY: RGBColor = PALETTE[5].light;

/// The colors of the items of a list.
const ARMS: std::ops::Range<usize> = 6..13;

/// Number of palette colors.
pub(crate) const PALETTE_SIZE: usize = ARMS.end - ARMS.start;

/// The color of the item at an index of a list.
pub(crate) fn palette_color(index: usize) -> RGBColor {
    PALETTE[ARMS.start + index % ARMS.len()].light
}

/// Its name on the page.
pub(crate) fn palette_name(index: usize) -> &'static str {
    PALETTE[ARMS.start + index % ARMS.len()].name
}

fn hex(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// An SVG whose colors are those of the page that contains it.
pub(crate) fn on_page(svg: &str) -> String {
    PALETTE.iter().fold(svg.to_string(), |svg, ink| {
        let hex = hex(ink.light);
        svg.replace(&format!("\"{hex}\""), &format!("\"var(--{},{hex})\"", ink.name))
    })
}

/// The page's variables for one theme.
pub(crate) fn css(is_dark: bool) -> String {
    let value = |ink: &Color| format!("--{}: {};", ink.name, hex(if is_dark { ink.dark } else { ink.light }));
    PALETTE.iter().map(value).collect::<Vec<_>>().join(" ")
}

/// A backend that draws with the dark color in place of each light one.
pub(crate) struct Dark<B>(pub(crate) B);

/// The dark color of a light one.
fn dark(color: BackendColor) -> BackendColor {
    let (r, g, b) = color.rgb;
    match PALETTE.iter().find(|ink| ink.light == RGBColor(r, g, b)) {
        Some(Color { dark: RGBColor(r, g, b), .. }) => BackendColor { rgb: (*r, *g, *b), ..color },
        None => color,
    }
}

struct Darkened(BackendColor, u32);

impl Darkened {
    fn of<S: BackendStyle>(style: &S) -> Self {
        Self(dark(style.color()), style.stroke_width())
    }
}

impl BackendStyle for Darkened {
    fn color(&self) -> BackendColor {
        self.0
    }

    fn stroke_width(&self) -> u32 {
        self.1
    }
}

/// A text style in another color.
struct DarkText<'a, T>(&'a T);

impl<T: BackendTextStyle> BackendTextStyle for DarkText<'_, T> {
    type FontError = T::FontError;

    fn color(&self) -> BackendColor {
        dark(self.0.color())
    }

    fn size(&self) -> f64 {
        self.0.size()
    }

    fn transform(&self) -> plotters_backend::FontTransform {
        self.0.transform()
    }

    fn style(&self) -> plotters_backend::FontStyle {
        self.0.style()
    }

    fn anchor(&self) -> plotters_backend::text_anchor::Pos {
        self.0.anchor()
    }

    fn family(&self) -> plotters_backend::FontFamily<'_> {
        self.0.family()
    }

    fn layout_box(&self, text: &str) -> Result<((i32, i32), (i32, i32)), Self::FontError> {
        self.0.layout_box(text)
    }

    fn draw<E, D: FnMut(i32, i32, BackendColor) -> Result<(), E>>(
        &self,
        text: &str,
        position: BackendCoord,
        mut pixel: D,
    ) -> Result<Result<(), E>, Self::FontError> {
        self.0.draw(text, position, |x, y, color| pixel(x, y, dark(color)))
    }
}

type BackendResult<B> = Result<(), DrawingErrorKind<<B as DrawingBackend>::ErrorType>>;

impl<B: DrawingBackend> DrawingBackend for Dark<B> {
    type ErrorType = B::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> BackendResult<B> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> BackendResult<B> {
        self.0.present()
    }

    fn draw_pixel(&mut self, position: BackendCoord, color: BackendColor) -> BackendResult<B> {
        self.0.draw_pixel(position, dark(color))
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> BackendResult<B> {
        self.0.draw_line(from, to, &Darkened::of(style))
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        a: BackendCoord,
        b: BackendCoord,
        style: &S,
        fill: bool,
    ) -> BackendResult<B> {
        self.0.draw_rect(a, b, &Darkened::of(style), fill)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> BackendResult<B> {
        self.0.draw_path(path, &Darkened::of(style))
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        position: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> BackendResult<B> {
        self.0.draw_circle(position, radius, &Darkened::of(style), fill)
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> BackendResult<B> {
        self.0.fill_polygon(path, &Darkened::of(style))
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, position: BackendCoord) -> BackendResult<B> {
        self.0.draw_text(text, &DarkText(style), position)
    }

    fn estimate_text_size<T: BackendTextStyle>(
        &self,
        text: &str,
        style: &T,
    ) -> Result<(u32, u32), DrawingErrorKind<Self::ErrorType>> {
        self.0.estimate_text_size(text, style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WCAG 2.1, relative luminance and contrast.
    fn contrast(a: RGBColor, b: RGBColor) -> f64 {
        let part = |x: u8| {
            let x = f64::from(x) / 255.0;
            if x <= 0.04045 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
        };
        let light = |RGBColor(r, g, b): RGBColor| 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        let (a, b) = (light(a), light(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_and_marks_have_contrast_in_both_themes() {
        let required = |name: &str| match name {
            "paper" | "line" => 1.0,
            "grey" => 3.0,
            _ => 4.0, // arm colors also write the arm's name, large
        };
        for ink in &PALETTE {
            for (color, paper) in [(ink.light, PALETTE[0].light), (ink.dark, PALETTE[0].dark)] {
                let actual = contrast(color, paper);
                let enough = if matches!(ink.name, "ink" | "soft") { 4.5 } else { required(ink.name) };
                assert!(actual >= enough, "{}: {actual:.2} of {enough}", ink.name);
            }
        }
    }

    #[test]
    fn colors_are_distinct() {
        for (i, a) in PALETTE.iter().enumerate() {
            assert!(PALETTE[..i].iter().all(|b| b.light != a.light && b.dark != a.dark), "{}", a.name);
        }
    }

    #[test]
    fn a_chart_takes_the_colors_of_its_page() {
        assert_eq!(on_page("<g fill=\"#222228\"/>"), "<g fill=\"var(--ink,#222228)\"/>");
        assert!(css(true).contains("--paper: #15171C;"));
    }
}
