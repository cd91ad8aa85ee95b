//! The rules of `rename_all`: those of serde, for names in PascalCase.

use syn::LitStr;

use crate::diagnostic::nearest;

/// How the name of a type or variant becomes an event type.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

const RULES: [(&str, Rule); 8] = [
    ("lowercase", Rule::Lower),
    ("UPPERCASE", Rule::Upper),
    ("PascalCase", Rule::Pascal),
    ("camelCase", Rule::Camel),
    ("snake_case", Rule::Snake),
    ("SCREAMING_SNAKE_CASE", Rule::ScreamingSnake),
    ("kebab-case", Rule::Kebab),
    ("SCREAMING-KEBAB-CASE", Rule::ScreamingKebab),
];

impl Rule {
    /// The rule of that name.
    pub(crate) fn parse(name: &LitStr) -> syn::Result<Self> {
        let value = name.value();
        let known = RULES.iter().find(|(known, _)| *known == value);
        known.map(|(_, rule)| *rule).ok_or_else(|| {
            let names = RULES.map(|(name, _)| name);
            let hint = match nearest(&value, names) {
                Some(near) => format!("did you mean {near:?}?"),
                None => {
                    let names = names.map(|name| format!("{name:?}"));
                    format!("the rules are {}", names.join(", "))
                }
            };
            syn::Error::new(name.span(), format!("unknown rule {value:?}; {hint}"))
        })
    }

    /// Renames.
    pub(crate) fn apply(self, name: &str) -> String {
        match self {
            Self::Lower => name.to_ascii_lowercase(),
            Self::Upper => name.to_ascii_uppercase(),
            Self::Pascal => name.to_owned(),
            Self::Camel => {
                let mut chars = name.chars();
                chars
                    .next()
                    .map(|first| first.to_ascii_lowercase())
                    .into_iter()
                    .chain(chars)
                    .collect()
            }
            Self::Snake => words(name, '_'),
            Self::ScreamingSnake => words(name, '_').to_ascii_uppercase(),
            Self::Kebab => words(name, '-'),
            Self::ScreamingKebab => words(name, '-').to_ascii_uppercase(),
        }
    }
}

/// Like serde, a word starts at each upper-case letter.
fn words(name: &str, separator: char) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for (i, letter) in name.chars().enumerate() {
        if i > 0 && letter.is_uppercase() {
            words.push(separator);
        }
        words.push(match letter {
            '_' => separator,
            letter => letter.to_ascii_lowercase(),
        });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_serde() {
        let renamed = |name| RULES.map(|(_, rule)| rule.apply(name));
        assert_eq!(
            renamed("OrderPlaced"),
            [
                "orderplaced",
                "ORDERPLACED",
                "OrderPlaced",
                "orderPlaced",
                "order_placed",
                "ORDER_PLACED",
                "order-placed",
                "ORDER-PLACED",
            ]
        );
        assert_eq!(renamed("A")[4], "a");
        assert_eq!(renamed("Über")[3], "Über");
    }
}
