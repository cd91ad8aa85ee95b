//! Tables on the terminal, and the same as JSON.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

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

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    runs: Vec<f64>,
    median: f64,
    lowest: f64,
    highest: f64,
    ratio: f64,
}

impl Report {
    /// Adds what contenders reached, each in several runs; ratios are against the first.
    pub(crate) fn add(
        &mut self,
        title: impl Into<String>,
        unit: &'static str,
        results: impl IntoIterator<Item = (String, Vec<f64>)>,
    ) {
        let results: Vec<_> = results.into_iter().collect();
        let baseline = results
            .first()
            .map(|(_, runs)| median(runs))
            .unwrap_or_default();
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
            baseline: results
                .first()
                .map(|(name, _)| name.clone())
                .unwrap_or_default(),
            rows: results.into_iter().map(row).collect(),
        };
        part.print();
        self.parts.push(part);
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let path = folder.join("results.json");
        fs::write(&path, serde_json::to_string_pretty(self)?)?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

impl Part {
    fn print(&self) {
        println!("\n{} ({})", self.title, self.unit);
        println!(
            "{:44} {:>12} {:>12} {:>12} {:>7}",
            "", "median", "lowest", "highest", "ratio"
        );
        for row in &self.rows {
            println!(
                "{:44} {:>12.2} {:>12.2} {:>12.2} {:>6.2}x",
                row.name, row.median, row.lowest, row.highest, row.ratio
            );
        }
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
