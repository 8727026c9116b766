//! Names that clients, peers and certificates give: what is taken for one, and how one is shown.
//!
//! Names end up in logs, errors and on terminals, so what is taken is short and holds no control
//! character. What was refused is shown too, and is then as long as its sender liked: [`Shown`].

use std::fmt::{self, Write};

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest name that is shown, in characters; the rest is cut.
const SHOWN_CHARS_MAX: usize = 128;

/// Names that begin with it are the system's.
const OF_SYSTEM: char = '_';

/// Why a text is refused as a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
pub struct BadName;

/// Refuses what is empty, long, or could move a terminal's cursor.
pub fn check(name: &str) -> Result<(), BadName> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    match fits && !name.chars().any(misleads) {
        true => Ok(()),
        false => Err(BadName),
    }
}

/// Whether a log of this name is the system's own: users make none.
pub fn is_of_system(name: &str) -> bool {
    name.starts_with(OF_SYSTEM)
}

/// Whether a log is among those of a prefix, for whoever lists them or reads several. Those of the system are left out
/// unless the prefix asks for them.
pub fn is_meant(name: &str, prefix: &str) -> bool {
    name.starts_with(prefix) && (!is_of_system(name) || is_of_system(prefix))
}

/// Whether a terminal or a reader is led astray by a character: by controls, and by those that turn
/// the direction of what follows.
pub fn misleads(char: char) -> bool {
    char.is_control() || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Any text, as it may stand in a message: in quotes, escaped, and cut if it is long.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars().take(SHOWN_CHARS_MAX) {
            write!(f, "{}", char.escape_debug())?;
        }
        f.write_char('"')?;
        match self.0.chars().nth(SHOWN_CHARS_MAX) {
            Some(_) => write!(f, "... of {} bytes", self.0.len()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_leads_nobody_astray() {
        for name in [
            "a",
            "Zähler 7",
            "n1.example.com",
            &"x".repeat(NAME_BYTES_MAX),
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "",
            &long,
            "a\nb",
            "\u{1b}[2J",
            "a\u{9b}b",
            "\0",
            "a\u{202e}b",
        ] {
            assert_eq!(check(name), Err(BadName), "{name:?}");
        }
    }

    #[test]
    fn the_systems_logs_are_meant_only_by_a_prefix_that_says_so() {
        assert!(is_meant("orders/1", "") && is_meant("orders/1", "orders/"));
        assert!(!is_meant("orders", "orders/") && !is_meant("_audit", ""));
        assert!(is_meant("_audit", "_") && is_meant("_audit", "_a"));
    }

    #[test]
    fn what_is_shown_is_escaped_and_bounded() {
        assert_eq!(Shown("a\u{1b}[2J").to_string(), "\"a\\u{1b}[2J\"");
        let long = "\u{1b}".repeat(3 << 20);
        let shown = Shown(&long).to_string();
        assert!(shown.len() < 1024 && shown.ends_with("\"... of 3145728 bytes"));
    }
}
