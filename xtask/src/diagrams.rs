//! `cargo xtask diagrams`: the manual's diagrams, from their sources in Pikchr (<https://pikchr.org>).
//!
//! Of each `NAME.pikchr` it makes `NAME.svg`, which a page shows on a repository's site, and `NAME.md`, which
//! holds the same as a link's definition that is its own target, for rustdoc: a page is included behind it, and
//! the first definition of a link counts.

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pikchr::{Pikchr, PikchrFlags};
use std::fs;
use std::path::{Path, PathBuf};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../outbox/src/manual/diagrams");

/// What comes of a diagram's source.
struct Diagram {
    path: PathBuf,
    svg: String,
    definition: String,
}

pub(crate) fn run() -> Result<()> {
    for diagram in all()? {
        fs::write(diagram.path.with_extension("svg"), diagram.svg)?;
        fs::write(diagram.path.with_extension("md"), diagram.definition)?;
        println!("{}", diagram.path.with_extension("svg").display());
    }
    Ok(())
}

fn all() -> Result<Vec<Diagram>> {
    let entries = fs::read_dir(FOLDER).context(FOLDER)?;
    let mut sources: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    sources.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "pikchr")
    });
    sources.sort();
    ensure!(!sources.is_empty(), "{FOLDER} has no sources");
    sources.iter().map(|path| draw(path)).collect()
}

fn draw(path: &Path) -> Result<Diagram> {
    let shown = || path.display().to_string();
    let source = fs::read_to_string(path).with_context(shown)?;
    let drawn = Pikchr::render(&source, None, PikchrFlags::default());
    let drawn = drawn.map_err(|error| anyhow!(error)).with_context(shown)?;
    let name = path.file_stem().and_then(|name| name.to_str());
    let name = name.with_context(shown)?;
    let svg = on_paper(drawn.rendered(), drawn.width(), drawn.height()).with_context(shown)?;
    let data = STANDARD.encode(&svg);
    Ok(Diagram {
        path: path.to_owned(),
        definition: format!("[{name}]: data:image/svg+xml;base64,{data}\n"),
        svg,
    })
}

/// With a size and a background of its own, so that it can be read wherever it is shown, on light and on dark.
fn on_paper(svg: &str, width: isize, height: isize) -> Result<String> {
    let (head, rest) = svg
        .split_once("style='font-size:initial;'")
        .context("no head")?;
    let (attributes, rest) = rest.split_once('>').context("no end of the head")?;
    // The units are larger than text in a page should be.
    let (shown, paper) = (width * 7 / 10, "fill='#fff' stroke='#d0d7de'");
    Ok(format!(
        "{head}width='{shown}' style='max-width:100%;height:auto;font-family:sans-serif'{attributes}>\n\
         <rect x='1' y='1' width='{}' height='{}' rx='8' {paper}/>{rest}\n",
        width - 2,
        height - 2
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagrams_are_what_their_sources_say() {
        for diagram in all().unwrap() {
            for (extension, expected) in [("svg", &diagram.svg), ("md", &diagram.definition)] {
                let path = diagram.path.with_extension(extension);
                let there = fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    there == *expected,
                    "{} is not of its source: run `cargo xtask diagrams`",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn a_mistake_in_a_source_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrong.pikchr");
        fs::write(&path, "box \"a\" nonsense").unwrap();
        let error = draw(&path).err().map(|error| format!("{error:#}")).unwrap();
        assert!(
            error.contains("wrong.pikchr") && error.contains("nonsense"),
            "{error}"
        );
    }
}
