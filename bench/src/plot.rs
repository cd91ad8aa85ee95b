//! The report as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::Part;

const WIDTH: u32 = 900;
/// Of a bar, with the space around it.
const ROW: u32 = 34;
const TEXT: RGBColor = RGBColor(60, 60, 60);
const OURS: RGBColor = RGBColor(31, 111, 178);
const OTHERS: RGBColor = RGBColor(170, 176, 184);

/// Draws the medians of a part as bars, with the range of the runs.
pub(crate) fn draw(part: &Part, path: &Path) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let rows = u32::try_from(part.rows().len())?;
    let height = 70 + ROW * rows;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let text = |size: f64| ("sans-serif", size).into_font().color(&TEXT);
    let title = format!("{} ({})", part.title(), part.unit());
    root.draw(&Text::new(title, (16, 14), text(17.0)))
        .map_err(|e| failed(&e))?;
    let highest = part.rows().iter().map(|row| row.highest());
    let highest = highest.fold(f64::MIN_POSITIVE, f64::max);
    let (left, right) = (320, 780);
    let x = |value: f64| left + (f64::from(right - left) * value / highest).round() as i32;
    for (row, y) in part.rows().iter().zip((52..).step_by(ROW as usize)) {
        let colour = if row.is_ours() { OURS } else { OTHERS };
        let bar = Rectangle::new([(left, y), (x(row.median()), y + 18)], colour.filled());
        let range = PathElement::new(
            vec![(x(row.lowest()), y + 9), (x(row.highest()), y + 9)],
            TEXT.stroke_width(1),
        );
        let [median, .., ratio] = row.figures();
        let figure = format!("{median}  ({ratio}×)");
        root.draw(&Text::new(row.name().to_owned(), (16, y + 2), text(13.0)))
            .and_then(|()| root.draw(&bar))
            .and_then(|()| root.draw(&range))
            .and_then(|()| root.draw(&Text::new(figure, (right + 10, y + 2), text(13.0))))
            .map_err(|e| failed(&e))?;
    }
    root.present().map_err(|e| failed(&e))
}
