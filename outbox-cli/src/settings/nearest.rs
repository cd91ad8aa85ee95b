//! The known name that somebody may have meant.

/// Names that have less in common than this were hardly meant.
const ALIKE: f64 = 0.6;

/// The name that is most like `unknown`, if any is.
pub(crate) fn nearest(unknown: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let folded = |name: &str| name.to_lowercase().replace(['_', '.'], "-");
    let unknown = folded(unknown);
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(&unknown, &folded(name));
    known
        .into_iter()
        .map(|name| (likeness(&name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

/// That name as the end of a sentence, or nothing.
pub(crate) fn did_you_mean(unknown: &str, known: impl IntoIterator<Item = String>) -> String {
    let hint = |name| format!("; did you mean `{name}`?");
    nearest(unknown, known).map_or_else(String::new, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_nothing_is_near_nothing() {
        let known = || ["lease", "batch-size"].map(str::to_owned);
        assert_eq!(nearest("leas", known()).as_deref(), Some("lease"));
        assert_eq!(nearest("BATCHSIZE", known()).as_deref(), Some("batch-size"));
        assert_eq!(nearest("quux", known()), None);
    }
}
