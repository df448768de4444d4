//! The names of series, in a legend above the plot or at the ends of their lines, and the labels of points.

use crate::charts::chart::{DrawResult, text_style};
use crate::charts::marks::{MarkStyle, Series, draw_marker};
use crate::charts::theme::{BACKGROUND, INK};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Draws the legend, above the plot; returns its height in pixels.
pub(super) fn draw_legend<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    entries: &[&Series],
    scale: f64,
) -> DrawResult<B, u32> {
    let px = |x: f64| (x * scale) as i32;
    let style = text_style(13.0, INK, scale).pos(Pos::new(HPos::Left, VPos::Center));
    let (mut x, mut y) = (px(14.0), px(16.0));
    let (width, row) = (area.dim_in_pixel().0 as i32, px(20.0));
    if entries.is_empty() {
        return Ok(px(8.0) as u32);
    }
    for series in entries {
        let (text_width, _) = area.estimate_text_size(&series.name, &style)?;
        if x + px(28.0) + text_width as i32 > width && x > px(14.0) {
            (x, y) = (px(14.0), y + row);
        }
        draw_swatch(area, series, (x, y), scale)?;
        area.draw(&Text::new(series.name.clone(), (x + px(26.0), y), style.clone()))?;
        x += px(26.0 + 18.0) + text_width as i32;
    }
    Ok((y + px(12.0)) as u32)
}

/// The mark of a series in the legend.
fn draw_swatch<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    series: &Series,
    (x, y): (i32, i32),
    scale: f64,
) -> DrawResult<B> {
    let px = |x: f64| (x * scale) as i32;
    let color = series.color.mix(series.opacity.max(0.75));
    let (start, end) = ((x, y), (x + px(20.0), y));
    match series.style {
        MarkStyle::Line { width } => {
            area.draw(&PathElement::new(vec![start, end], color.stroke_width(px(width).max(1) as u32)))
        }
        MarkStyle::Dashed { width } => {
            let stroke = color.stroke_width(px(width).max(1) as u32);
            area.draw(&PathElement::new(vec![start, (x + px(8.0), y)], stroke))?;
            area.draw(&PathElement::new(vec![(x + px(12.0), y), end], stroke))
        }
        MarkStyle::Band => {
            let corners = [(x, y - px(6.0)), (x + px(20.0), y + px(6.0))];
            area.draw(&Rectangle::new(corners, series.color.mix(0.25).filled()))
        }
        style => draw_marker(area, (x + px(10.0), y), style, color, scale),
    }
}

/// Room in pixels at the right of the plot for the names of series that end there.
pub(super) fn end_label_room<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    series_at_right: &[&Series],
    scale: f64,
) -> DrawResult<B, i32> {
    let mut room = (20.0 * scale) as i32;
    for series in series_at_right {
        let (width, _) = area.estimate_text_size(&series.name, &text_style(12.0, INK, scale))?;
        room = room.max(width as i32 + (12.0 * scale) as i32);
    }
    Ok(room.min(area.dim_in_pixel().0 as i32 / 3))
}

/// Pixels that a text or a mark covers: left, top, right, bottom.
type Covered = [i32; 4];

fn overlap([left, top, right, bottom]: Covered, other: Covered) -> bool {
    left < other[2] && other[0] < right && top < other[3] && other[1] < bottom
}

/// Draws names at the last pixels of their lines, pushed down where they would cover each other; returns what they cover.
pub(super) fn draw_end_labels<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    ends: &[(&Series, (i32, i32))],
    scale: f64,
) -> DrawResult<B, Vec<Covered>> {
    let px = |x: f64| (x * scale) as i32;
    let size = area.dim_in_pixel();
    let mut labels = vec![];
    for (series, (x, y)) in ends {
        let style = text_style(12.0, series.color, scale).pos(Pos::new(HPos::Left, VPos::Center));
        let (width, height) = area.estimate_text_size(&series.name, &style)?;
        let x = (x + px(8.0)).min(size.0 as i32 - width as i32 - px(2.0));
        labels.push((x, *y, width as i32, height as i32, &series.name, style));
    }
    labels.sort_by_key(|label| label.1);
    let mut placed: Vec<(i32, i32, i32)> = vec![]; // left, right, y
    let mut covered = vec![];
    for (x, mut y, width, height, name, style) in labels {
        let row = height.max(px(13.0));
        for (left, right, above) in &placed {
            if x < *right && *left < x + width && y < above + row {
                y = above + row;
            }
        }
        y = y.min(size.1 as i32 - row / 2);
        placed.push((x, x + width, y));
        let background = [(x - px(1.0), y - height / 2), (x + width + px(1.0), y + height / 2)];
        area.draw(&Rectangle::new(background, BACKGROUND.mix(0.7).filled()))?;
        area.draw(&Text::new(name.clone(), (x, y), style))?;
        covered.push([x - px(1.0), y - row / 2, x + width + px(1.0), y + row / 2]);
    }
    Ok(covered)
}

/// Draws the labels of points, each beside its own where nothing is covered: not a mark, not another label. One without room is
/// left out; its text is in the tooltip and in the table of the chart.
pub(super) fn draw_point_labels<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    labels: &[(&Series, &str, (i32, i32))],
    mut covered: Vec<Covered>,
    scale: f64,
) -> DrawResult<B> {
    let px = |x: f64| (x * scale) as i32;
    let (area_width, area_height) = area.dim_in_pixel();
    let mark = px(6.0);
    covered.extend(labels.iter().map(|(_, _, (x, y))| [x - mark, y - mark, x + mark, y + mark]));
    for (series, label, (x, y)) in labels {
        let style = text_style(10.5, series.color, scale).pos(Pos::new(HPos::Left, VPos::Center));
        let (width, height) = area.estimate_text_size(label, &style)?;
        let (width, half) = (width as i32, height as i32 / 2);
        let (right, left) = (x + px(8.0), x - px(8.0) - width);
        let places = [(right, 10.0), (right, -10.0), (left, -10.0), (left, 10.0), (right, 22.0), (left, -22.0)];
        let fits = places.into_iter().map(|(x, down)| (x, y + px(down))).find(|&(x, y)| {
            let text = [x, y - half, x + width, y + half];
            let inside = x >= 0 && x + width <= area_width as i32 && y - half >= 0 && y + half <= area_height as i32;
            inside && !covered.iter().any(|other| overlap(text, *other))
        });
        if let Some((x, y)) = fits {
            covered.push([x, y - half, x + width, y + half]);
            area.draw(&Text::new((*label).to_owned(), (x, y), style))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_touch_do_not_overlap() {
        assert!(overlap([0, 0, 10, 10], [9, 9, 20, 20]) && overlap([0, 0, 10, 10], [2, 2, 3, 3]));
        assert!(!overlap([0, 0, 10, 10], [10, 0, 20, 10]) && !overlap([0, 0, 10, 10], [0, 10, 10, 20]));
    }
}
