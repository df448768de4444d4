//! A drawing backend that writes one page of PDF with an embedded font, so that a chart can go into a paper unchanged.

use pdf_writer::types::{CidFontType, FontFlags, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Finish, Name, Pdf as File, Rect, Ref, Str};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontTransform,
};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::f32::consts::FRAC_PI_2;

/// The font's resource name in the file.
const FONT: Name = Name(b"F");
const FONT_NAME: Name = Name(b"DejaVuSans");
/// Glyph space units per em.
const EM: f32 = 1000.0;
/// A quarter circle as a Bézier curve: the distance of its control points, as a share of the radius.
const ARC: f32 = 0.552_285;

/// The page so far; `present` writes it to `bytes`.
pub(crate) struct Pdf<'a> {
    bytes: &'a mut Vec<u8>,
    size: (u32, u32),
    /// Points per unit of the drawing.
    grain: f32,
    content: Content,
    /// Opacities in thousandths.
    opacities: BTreeSet<u16>,
    face: Option<ttf_parser::Face<'static>>,
    glyphs: BTreeMap<u16, char>,
}

type BackendResult = Result<(), DrawingErrorKind<Infallible>>;

impl<'a> Pdf<'a> {
    /// A page of `size` in units of the drawing, `points` wide.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, size: (u32, u32), points: f64) -> Self {
        let grain = points as f32 / size.0 as f32;
        let mut content = Content::new();
        content.transform([grain, 0.0, 0.0, -grain, 0.0, grain * size.1 as f32]); // flips y
        let face = ttf_parser::Face::parse(dejavu::sans::regular(), 0).ok();
        Self { bytes, size, grain, content, opacities: BTreeSet::new(), face, glyphs: BTreeMap::new() }
    }

    fn color(&mut self, color: BackendColor) {
        let [r, g, b] = [color.rgb.0, color.rgb.1, color.rgb.2].map(|part| f32::from(part) / 255.0);
        self.content.set_fill_rgb(r, g, b).set_stroke_rgb(r, g, b);
        let opacity = (color.alpha * 1000.0).round() as u16;
        self.opacities.insert(opacity);
        self.content.set_parameters(Name(format!("A{opacity}").as_bytes()));
    }

    fn stroke_of<S: BackendStyle>(&mut self, style: &S) {
        self.color(style.color());
        self.content.set_line_width(style.stroke_width() as f32);
    }

    fn path(&mut self, path: impl IntoIterator<Item = BackendCoord>) {
        for (index, (x, y)) in path.into_iter().enumerate() {
            match index {
                0 => self.content.move_to(x as f32, y as f32),
                _ => self.content.line_to(x as f32, y as f32),
            };
        }
    }

    fn finish(&mut self, fill: bool) {
        if fill {
            self.content.fill_nonzero()
        } else {
            self.content.stroke()
        };
    }

    /// Width of a glyph in thousandths of an em.
    fn width(&self, glyph: u16) -> f32 {
        let Some(face) = &self.face else { return 0.0 };
        let units = face.glyph_hor_advance(ttf_parser::GlyphId(glyph)).unwrap_or(0);
        f32::from(units) * EM / f32::from(face.units_per_em())
    }

    /// The glyphs of a text, which are added to the font's tables.
    fn glyphs_of(&mut self, text: &str) -> Vec<u16> {
        let Some(face) = &self.face else { return vec![] };
        let pairs: Vec<(u16, char)> =
            text.chars().map(|c| (face.glyph_index(c).map_or(0, |glyph| glyph.0), c)).collect();
        self.glyphs.extend(pairs.iter().copied());
        pairs.into_iter().map(|(glyph, _)| glyph).collect()
    }

    /// The whole file.
    fn write(&mut self) {
        let [catalog, pages, page, content, font, cid, descriptor, file, unicode] =
            [1, 2, 3, 4, 5, 6, 7, 8, 9].map(Ref::new);
        let state = |index: usize| Ref::new(10 + index as i32);
        let mut pdf = File::new();
        pdf.catalog(catalog).pages(pages);
        pdf.pages(pages).kids([page]).count(1);
        let mut of_page = pdf.page(page);
        let (wide, high) = (self.grain * self.size.0 as f32, self.grain * self.size.1 as f32);
        of_page.media_box(Rect::new(0.0, 0.0, wide, high)).parent(pages).contents(content);
        let mut resources = of_page.resources();
        resources.fonts().pair(FONT, font);
        let mut states = resources.ext_g_states();
        for (index, opacity) in self.opacities.iter().enumerate() {
            states.pair(Name(format!("A{opacity}").as_bytes()), state(index));
        }
        states.finish();
        resources.finish();
        of_page.finish();
        for (index, opacity) in self.opacities.iter().enumerate() {
            let share = f32::from(*opacity) / 1000.0;
            pdf.ext_graphics(state(index)).non_stroking_alpha(share).stroking_alpha(share);
        }
        let operators = std::mem::replace(&mut self.content, Content::new()).finish();
        write_deflated(&mut pdf, content, &operators);
        self.write_font(&mut pdf, [font, cid, descriptor, file, unicode]);
        *self.bytes = pdf.finish();
    }

    fn write_font(&self, pdf: &mut File, [font, cid, descriptor, file, unicode]: [Ref; 5]) {
        let Some(face) = &self.face else { return };
        let system = SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };
        let mut type0 = pdf.type0_font(font);
        type0.base_font(FONT_NAME).encoding_predefined(Name(b"Identity-H")).descendant_font(cid).to_unicode(unicode);
        type0.finish();
        let mut of_glyphs = pdf.cid_font(cid);
        of_glyphs.subtype(CidFontType::Type2).base_font(FONT_NAME).system_info(system).font_descriptor(descriptor);
        of_glyphs.cid_to_gid_map_predefined(Name(b"Identity"));
        let mut widths = of_glyphs.widths();
        self.glyphs.keys().for_each(|&glyph| {
            widths.consecutive(glyph, [self.width(glyph)]);
        });
        widths.finish();
        of_glyphs.finish();
        let scaled = |units: i16| f32::from(units) * EM / f32::from(face.units_per_em());
        let box_ = face.global_bounding_box();
        let corners = Rect::new(scaled(box_.x_min), scaled(box_.y_min), scaled(box_.x_max), scaled(box_.y_max));
        pdf.font_descriptor(descriptor)
            .name(FONT_NAME)
            .flags(FontFlags::NON_SYMBOLIC)
            .bbox(corners)
            .italic_angle(0.0)
            .ascent(scaled(face.ascender()))
            .descent(scaled(face.descender()))
            .cap_height(scaled(face.capital_height().unwrap_or(face.ascender())))
            .stem_v(80.0)
            .font_file2(file);
        write_deflated(pdf, file, dejavu::sans::regular());
        let mut map = UnicodeCmap::new(Name(b"Custom"), system);
        self.glyphs.iter().for_each(|(&glyph, &c)| map.pair(glyph, c));
        pdf.cmap(unicode, &map.finish());
    }
}

/// Writes a deflated stream.
fn write_deflated(pdf: &mut File, reference: Ref, bytes: &[u8]) {
    let small = miniz_oxide::deflate::compress_to_vec_zlib(bytes, 6);
    let mut stream = pdf.stream(reference, &small);
    stream.filter(pdf_writer::Filter::FlateDecode);
    stream.pair(Name(b"Length1"), bytes.len() as i32);
}

impl DrawingBackend for Pdf<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> BackendResult {
        Ok(())
    }

    fn present(&mut self) -> BackendResult {
        self.write();
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> BackendResult {
        self.color(color);
        self.content.rect(x as f32, y as f32, 1.0, 1.0).fill_nonzero();
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> BackendResult {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(&mut self, a: BackendCoord, b: BackendCoord, style: &S, fill: bool) -> BackendResult {
        self.stroke_of(style);
        self.content.rect(a.0 as f32, a.1 as f32, (b.0 - a.0) as f32, (b.1 - a.1) as f32);
        self.finish(fill);
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> BackendResult {
        self.stroke_of(style);
        self.path(path);
        self.finish(false);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        (x, y): BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> BackendResult {
        self.stroke_of(style);
        let (x, y, r) = (x as f32, y as f32, radius as f32);
        let h = r * ARC;
        self.content.move_to(x + r, y);
        self.content.cubic_to(x + r, y + h, x + h, y + r, x, y + r);
        self.content.cubic_to(x - h, y + r, x - r, y + h, x - r, y);
        self.content.cubic_to(x - r, y - h, x - h, y - r, x, y - r);
        self.content.cubic_to(x + h, y - r, x + r, y - h, x + r, y);
        self.finish(fill);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> BackendResult {
        self.stroke_of(style);
        self.path(path);
        self.content.close_path();
        self.finish(true);
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, (x, y): BackendCoord) -> BackendResult {
        let glyphs = self.glyphs_of(text);
        let size = style.size() as f32;
        let wide = glyphs.iter().map(|&glyph| self.width(glyph)).sum::<f32>() * size / EM;
        let across = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -wide / 2.0,
            HPos::Right => -wide,
        };
        // from the anchor down to the baseline
        let down = match style.anchor().v_pos {
            VPos::Top => size * 0.76,
            VPos::Center => size * 0.36,
            VPos::Bottom => 0.0,
        };
        let angle = match style.transform() {
            FontTransform::None => 0.0,
            FontTransform::Rotate90 => FRAC_PI_2,
            FontTransform::Rotate180 => 2.0 * FRAC_PI_2,
            FontTransform::Rotate270 => -FRAC_PI_2,
        };
        let (sin, cos) = angle.sin_cos();
        self.color(style.color());
        // flips y back, so that letters are upright
        let matrix = [cos, sin, sin, -cos, x as f32 + cos * across - sin * down, y as f32 + sin * across + cos * down];
        let codes: Vec<u8> = glyphs.into_iter().flat_map(u16::to_be_bytes).collect();
        self.content.begin_text().set_font(FONT, size).set_text_matrix(matrix).show(Str(&codes)).end_text();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charts::theme::INK;

    #[test]
    fn text_has_its_glyphs_and_their_unicode_map() {
        let mut bytes = vec![];
        let mut pdf = Pdf::new(&mut bytes, (100, 50), 100.0);
        assert_eq!(pdf.glyphs_of("β √").len(), 3);
        assert!(pdf.glyphs.values().copied().collect::<String>().contains('β') && !pdf.glyphs.contains_key(&0));
        let color = BackendColor { alpha: 0.5, rgb: (INK.0, INK.1, INK.2) };
        pdf.draw_pixel((1, 2), color).and_then(|()| pdf.present()).expect("infallible");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("/A500") && text.contains("/DejaVuSans") && text.contains("/MediaBox [0 0 100 50]"));
    }
}
