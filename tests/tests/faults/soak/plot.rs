//! A run as a picture: what is measured, one above the other, over the same minutes.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::VETERAN;
use super::recording::{Recording, Sample};

const WIDTH: u32 = 900;
const PANEL: u32 = 150;

/// How many points a line has, at most.
const POINTS: u32 = 240;

/// What a point stands for, at least, in seconds.
const SHORTEST: f64 = 5.0;

const MIB: f64 = 1_048_576.0;

const TEXT: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 228, 232);
const FAULT: RGBColor = RGBColor(251, 221, 214);
const BLUE: RGBColor = RGBColor(31, 111, 178);
const ORANGE: RGBColor = RGBColor(209, 105, 30);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

struct Panel {
    title: &'static str,
    /// In powers of ten.
    logarithmic: bool,
    lines: Vec<Line>,
}

struct Line {
    name: &'static str,
    colour: RGBColor,
    /// By minutes.
    points: Vec<(f64, f64)>,
}

/// Draws all of it.
pub(super) fn draw(recording: &Recording, path: &Path) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let panels = panels(recording);
    let height = PANEL * u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    for (panel, area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        panel.draw(&area, recording).map_err(|e| failed(&e))?;
    }
    root.present().map_err(|e| failed(&e))
}

fn panels(recording: &Recording) -> Vec<Panel> {
    let line = |name, colour, points| Line {
        name,
        colour,
        points,
    };
    let of = |name, colour, value: fn(&Sample) -> Option<f64>| {
        line(name, colour, bins(recording, |bin| highest(bin, value)))
    };
    let panel = |title, lines| Panel {
        title,
        logarithmic: false,
        lines,
    };
    vec![
        panel(
            "messages a second",
            vec![
                line("committed", ORANGE, bins(recording, committed_rate)),
                line("read by a consumer", BLUE, bins(recording, read_rate)),
            ],
        ),
        Panel {
            logarithmic: true,
            ..panel(
                "from COMMIT until a consumer has it: the worst second, in ms",
                vec![
                    of("p99", ORANGE, |sample| sample.p99_ms),
                    of("p50", BLUE, |sample| sample.p50_ms),
                ],
            )
        },
        panel(
            "memory of runners, in MiB",
            vec![
                of("those that come and go", ORANGE, |sample| {
                    let others = sample.rss.iter().filter(|(name, _)| *name != VETERAN);
                    Some(*others.map(|(_, bytes)| bytes).max()? as f64 / MIB)
                }),
                of("the one that lives through all of it", BLUE, |sample| {
                    Some(*sample.rss.get(VETERAN)? as f64 / MIB)
                }),
            ],
        ),
        panel(
            "size of the table outbox, in MiB",
            vec![
                of("table", ORANGE, |sample| {
                    Some(sample.tables.as_ref()?.table_bytes as f64 / MIB)
                }),
                of("index", BLUE, |sample| {
                    Some(sample.tables.as_ref()?.index_bytes as f64 / MIB)
                }),
            ],
        ),
        panel(
            "rows in it, in thousands",
            vec![
                of("dead", ORANGE, |sample| {
                    Some(sample.tables.as_ref()?.dead as f64 / 1_000.0)
                }),
                of("waiting", BLUE, |sample| {
                    Some(sample.tables.as_ref()?.waiting as f64 / 1_000.0)
                }),
            ],
        ),
    ]
}

/// A point for each of [`POINTS`] parts of the run in which there is a value.
fn bins(recording: &Recording, value: impl Fn(&[Sample]) -> Option<f64>) -> Vec<(f64, f64)> {
    let width = f64::from(recording.minutes) * 60.0 / f64::from(POINTS);
    let width = width.max(SHORTEST);
    let bins = recording
        .samples
        .chunk_by(|one, next| (one.at / width).floor() == (next.at / width).floor());
    bins.filter_map(|bin| Some((bin.first()?.at / 60.0, value(bin)?)))
        .collect()
}

fn highest(bin: &[Sample], value: fn(&Sample) -> Option<f64>) -> Option<f64> {
    bin.iter().filter_map(value).max_by(f64::total_cmp)
}

fn committed_rate(bin: &[Sample]) -> Option<f64> {
    let known = |sample: &Sample| Some((sample.at, sample.tables.as_ref()?.written as f64));
    rate(bin.iter().filter_map(known).collect())
}

fn read_rate(bin: &[Sample]) -> Option<f64> {
    rate(
        bin.iter()
            .map(|sample| (sample.at, sample.read as f64))
            .collect(),
    )
}

/// A second, of a count at some times.
fn rate(counts: Vec<(f64, f64)>) -> Option<f64> {
    let (&(from, before), &(to, after)) = (counts.first()?, counts.last()?);
    (to > from).then(|| (after - before) / (to - from))
}

impl Panel {
    fn draw<'a>(
        &self,
        area: &Area<'a>,
        recording: &Recording,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        let scaled = |value: f64| match self.logarithmic {
            true => value.max(1.0).log10(),
            false => value,
        };
        let values = self.lines.iter().flat_map(|line| &line.points);
        let highest = values.map(|&(_, y)| scaled(y)).fold(0.0, f64::max);
        let top = match self.logarithmic {
            true => highest.ceil(),
            false => highest * 1.1,
        };
        let text = |size: f64| ("sans-serif", size).into_font().color(&TEXT);
        area.draw(&Text::new(self.title, (56, 6), text(16.0)))?;
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_top(26)
            .x_label_area_size(18)
            .y_label_area_size(50)
            .build_cartesian_2d(
                0.0..f64::from(recording.minutes),
                0.0..top.max(f64::MIN_POSITIVE),
            )?;
        for struck in &recording.faults {
            let stripe = [(struck.from / 60.0, 0.0), (struck.to / 60.0, top)];
            chart.draw_series([Rectangle::new(stripe, FAULT.filled())])?;
        }
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(TEXT)
            .label_style(text(13.0))
            .x_label_formatter(&|minute| format!("{minute:.0}"))
            .y_labels(5)
            .y_label_formatter(&|value| match self.logarithmic {
                true => format!("{:.0}", 10f64.powf(*value)),
                false => format!("{value:.0}"),
            })
            .draw()?;
        for (number, line) in self.lines.iter().enumerate() {
            let points: Vec<_> = line.points.iter().map(|&(x, y)| (x, scaled(y))).collect();
            let stroke = line.colour.stroke_width(1);
            chart.draw_series([PathElement::new(points, stroke)])?;
            let x = 480 + 170 * i32::try_from(number).unwrap_or_default();
            area.draw(&Rectangle::new(
                [(x, 11), (x + 12, 15)],
                line.colour.filled(),
            ))?;
            area.draw(&Text::new(line.name, (x + 18, 6), text(14.0)))?;
        }
        Ok(())
    }
}
