//! Tables on the terminal, and the same as JSON.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::plot;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    parts: Vec<Part>,
}

/// Contenders that did the same, in turns.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    title: String,
    unit: &'static str,
    /// Against whom the ratios are.
    baseline: String,
    rows: Vec<Row>,
}

/// One contender.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    runs: Vec<f64>,
    median: f64,
    lowest: f64,
    highest: f64,
    ratio: f64,
}

impl Report {
    /// Adds what contenders reached, each in several runs; ratios are against the first. Where none was chosen, there is
    /// nothing to show.
    pub(crate) fn add(
        &mut self,
        title: impl Into<String>,
        unit: &'static str,
        results: impl IntoIterator<Item = (String, Vec<f64>)>,
    ) {
        let results: Vec<_> = results.into_iter().collect();
        let Some((first, runs)) = results.first() else {
            return;
        };
        let (first, baseline) = (first.clone(), median(runs));
        let row = |(name, runs): (String, Vec<f64>)| Row {
            name,
            median: median(&runs),
            lowest: runs.iter().copied().fold(f64::INFINITY, f64::min),
            highest: runs.iter().copied().fold(0.0, f64::max),
            ratio: median(&runs) / baseline,
            runs,
        };
        let part = Part {
            title: title.into(),
            unit,
            baseline: first,
            rows: results.into_iter().map(row).collect(),
        };
        part.print();
        self.parts.push(part);
    }

    /// Writes the figures as JSON and as Markdown, and a picture of each part.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(
            folder.join("results.json"),
            serde_json::to_string_pretty(self)?,
        )?;
        let tables: String = self.parts.iter().map(Part::to_markdown).collect();
        fs::write(folder.join("results.md"), tables)?;
        for part in &self.parts {
            plot::draw(part, &folder.join(part.file_name()))?;
        }
        println!("\nwritten to {}", folder.display());
        Ok(())
    }
}

impl Part {
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    pub(crate) fn unit(&self) -> &str {
        self.unit
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The title in small letters, with all else but digits as dashes.
    fn file_name(&self) -> String {
        let words = self
            .title
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        let name = words.collect::<Vec<_>>().join("-").to_lowercase();
        format!("{name}.svg")
    }

    fn to_markdown(&self) -> String {
        let mut table = format!(
            "**{}** ({})\n\n| | median | lowest | highest | ratio |\n|---|---:|---:|---:|---:|\n",
            self.title, self.unit
        );
        for row in &self.rows {
            table += &format!("| {} | {} |\n", row.name, row.figures().join(" | "));
        }
        table + "\n"
    }

    fn print(&self) {
        println!("\n{} ({})", self.title, self.unit);
        println!(
            "{:44} {:>12} {:>12} {:>12} {:>7}",
            "", "median", "lowest", "highest", "ratio"
        );
        for row in &self.rows {
            let [median, lowest, highest, ratio] = row.figures();
            println!(
                "{:44} {median:>12} {lowest:>12} {highest:>12} {ratio:>7}",
                row.name
            );
        }
    }
}

impl Row {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn median(&self) -> f64 {
        self.median
    }

    pub(crate) fn lowest(&self) -> f64 {
        self.lowest
    }

    pub(crate) fn highest(&self) -> f64 {
        self.highest
    }

    /// Median, lowest, highest and ratio, to be read.
    pub(crate) fn figures(&self) -> [String; 4] {
        [self.median, self.lowest, self.highest, self.ratio].map(figure)
    }

    pub(crate) fn is_ours(&self) -> bool {
        ["outbox", "publish", "and publish"]
            .iter()
            .any(|prefix| self.name.starts_with(prefix))
    }
}

/// A value with as many digits as mean something: about three, or what is before the point, in groups of three.
fn figure(value: f64) -> String {
    match value {
        100.0.. => grouped(value.round() as u64),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn grouped(value: u64) -> String {
    match (value / 1_000, value % 1_000) {
        (0, rest) => rest.to_string(),
        (above, rest) => format!("{},{rest:03}", grouped(above)),
    }
}

/// The one in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The value below which this share of the values is.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 - 1.0) * share).round();
    values.get(index as usize).copied().unwrap_or_default()
}
