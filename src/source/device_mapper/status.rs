//! The text that the kernel's `multipath` target prints.
//!
//! The format is `multipath_status` in `drivers/md/dm-mpath.c`. Status (`dmsetup status`):
//!
//! ```text
//! 2 0 1   0         2 1          A 0          2 2                8:0 A 0  0 1   8:32 A 0  0 1   E 0 1 2 8:16 F 1  0 1
//! features handler  groups next  state+group  paths, words each  path, state, fail count, the selector's words
//! ```
//!
//! The exporter does not use the fail count, because it returns to 0 on every table reload.

use std::num::ParseIntError;

use crate::topology::DevNo;

/// A path group of the status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusGroup {
    /// `A` is the group in use, `E` is enabled, `D` is disabled ("bypassed"). Other letters are
    /// passed on.
    pub(crate) letter: char,
    /// The paths in the kernel's order.
    pub(crate) paths: Vec<StatusPath>,
}

/// A path of the status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusPath {
    /// The device number. The line has no kernel names, because the disk may already be gone.
    pub(crate) devno: DevNo,
    /// True for state `A`: the kernel sends I/O to this path.
    pub(crate) valid: bool,
}

/// The text does not have the form that `dm-mpath.c` prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// The line ends before an expected word.
    #[error("the line ends, expected {0}")]
    Ends(&'static str),
    /// A word is not of the expected kind.
    #[error("word {position} is {word:?}, expected {wanted}")]
    Word {
        /// The position of the word, from 1.
        position: usize,
        word: String,
        /// The expected kind of word.
        wanted: &'static str,
    },
}

struct Words<'a> {
    words: std::str::SplitAsciiWhitespace<'a>,
    position: usize,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Words { words: line.split_ascii_whitespace(), position: 0 }
    }

    fn word(&mut self, wanted: &'static str) -> Result<&'a str, ParseError> {
        self.position += 1;
        self.words.next().ok_or(ParseError::Ends(wanted))
    }

    fn error(&self, word: &str, wanted: &'static str) -> ParseError {
        ParseError::Word { position: self.position, word: word.chars().take(40).collect(), wanted }
    }

    fn count(&mut self, wanted: &'static str) -> Result<usize, ParseError> {
        let word = self.word(wanted)?;
        word.parse().map_err(|_: ParseIntError| self.error(word, wanted))
    }

    /// Skips a list that begins with its length.
    fn skip_list(&mut self, wanted: &'static str) -> Result<(), ParseError> {
        let words = self.count(wanted)?;
        self.skip(words, wanted)
    }

    fn skip(&mut self, words: usize, wanted: &'static str) -> Result<(), ParseError> {
        (0..words).try_for_each(|_| self.word(wanted).map(drop))
    }
}

/// Parses the path groups of the target's status line.
///
/// # Errors
/// If the line ends early or a number is malformed. The caller keeps the known state of the device.
pub(crate) fn parse_status(line: &str) -> Result<Vec<StatusGroup>, ParseError> {
    let mut words = Words::of(line);
    words.skip_list("the features")?;
    words.skip_list("the hardware handler")?;
    let groups = words.count("the number of path groups")?;
    words.skip(1, "the next path group")?;
    // The counts come from outside, so no memory is reserved for them.
    (0..groups).map(|_| parse_group(&mut words)).collect()
}

fn parse_group(words: &mut Words<'_>) -> Result<StatusGroup, ParseError> {
    let state = words.word("a path group's state")?;
    let letter = state.chars().next().unwrap_or('?');
    words.skip_list("the path selector's state")?;
    let members = words.count("the number of paths")?;
    let selector_words = words.count("the number of words of each path")?;
    let paths = (0..members).map(|_| parse_member(words, selector_words)).collect::<Result<_, _>>()?;
    Ok(StatusGroup { letter, paths })
}

fn parse_member(words: &mut Words<'_>, selector_words: usize) -> Result<StatusPath, ParseError> {
    let device = words.word("a path's device number")?;
    let devno = device.parse().map_err(|_| words.error(device, "a path's device number"))?;
    let valid = words.word("a path's state")? == "A";
    words.count("a path's fail count")?;
    words.skip(selector_words, "a path's selector words")?;
    Ok(StatusPath { devno, valid })
}

/// Returns true if the target's table line says that I/O waits while no path is valid
/// (`queue_if_no_path`). The status line does not show this: the number after its `2` counts I/O
/// that waits for the initialisation of the path group.
///
/// # Errors
/// As [`parse_status`].
pub(crate) fn parse_queueing(table: &str) -> Result<bool, ParseError> {
    let mut words = Words::of(table);
    let features = words.count("the features")?;
    for _ in 0..features {
        if words.word("a feature")? == "queue_if_no_path" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(devno: &str, valid: bool) -> StatusPath {
        StatusPath { devno: devno.parse().unwrap(), valid }
    }

    #[test]
    fn two_groups_one_path_failed() {
        let line = "2 0 1 0 2 1 A 0 2 2 8:0 A 0 0 1 8:32 A 0 0 1 E 0 1 2 8:16 F 1 0 1 ";
        assert_eq!(
            parse_status(line).unwrap(),
            [
                StatusGroup { letter: 'A', paths: vec![member("8:0", true), member("8:32", true)] },
                StatusGroup { letter: 'E', paths: vec![member("8:16", false)] },
            ]
        );
    }

    #[test]
    fn a_map_without_path_groups() {
        assert_eq!(parse_status("2 0 0 0 0 0 ").unwrap(), []);
    }

    #[test]
    fn a_selector_with_extra_words_and_an_unknown_group_letter() {
        let line = "2 0 0 1 alua 1 1 X 1 7 1 0 259:70000 F 12 ";
        let paths = vec![member("259:70000", false)];
        assert_eq!(parse_status(line).unwrap(), [StatusGroup { letter: 'X', paths }]);
    }

    #[test]
    fn a_truncated_line_is_an_error_that_names_the_missing_part() {
        let line = "2 0 1 0 2 1 A 0 2 2 8:0 A 0 0 1 8:32 A 0 0 1 E 0 1 2 8:16 F 1 0 1";
        for (cut, _) in line.match_indices(' ') {
            assert!(matches!(parse_status(&line[..cut]), Err(ParseError::Ends(_))), "{:?}", &line[..cut]);
        }
        assert_eq!(parse_status("2 0 1").unwrap_err().to_string(), "the line ends, expected the hardware handler");
    }

    #[test]
    fn a_word_of_the_wrong_kind_is_named() {
        let error = parse_status("2 0 1 0 one 1").unwrap_err();
        assert_eq!(error.to_string(), "word 5 is \"one\", expected the number of path groups");
    }

    #[test]
    fn queueing_is_in_the_table() {
        for (table, queueing) in [
            ("1 queue_if_no_path 1 alua 2 1 service-time 0 2 2 8:0 1 1 8:32 1 1 service-time 0 1 2 8:16 1 1", true),
            ("3 queue_if_no_path queue_mode bio 0 0 0", true),
            ("2 queue_mode bio 0 1 1 service-time 0 1 2 1:0 1 1", false),
            ("0 1 alua 1 1 service-time 0 2 2 8:0 1 1 8:16 1 1", false),
            ("0 0 0 0", false),
        ] {
            assert_eq!(parse_queueing(table), Ok(queueing), "{table}");
        }
        assert_eq!(parse_queueing(""), Err(ParseError::Ends("the features")));
        assert_eq!(parse_queueing("3 queue_mode bio"), Err(ParseError::Ends("a feature")));
    }

    fn groups() -> impl Strategy<Value = Vec<StatusGroup>> {
        let member = (0u32..4096, 0u32..1 << 20, any::<bool>())
            .prop_map(|(major, minor, valid)| StatusPath { devno: DevNo { major, minor }, valid });
        let group = (proptest::char::range('A', 'Z'), proptest::collection::vec(member, 0..9))
            .prop_map(|(letter, paths)| StatusGroup { letter, paths });
        proptest::collection::vec(group, 0..5)
    }

    fn print(groups: &[StatusGroup]) -> String {
        let mut line = format!("2 0 0 0 {} {} ", groups.len(), groups.len().min(1));
        for group in groups {
            line += &format!("{} 0 {} 2 ", group.letter, group.paths.len());
            for path in &group.paths {
                line += &format!("{} {} 3 0 1 ", path.devno, if path.valid { 'A' } else { 'F' });
            }
        }
        line
    }

    proptest! {
        #[test]
        fn parses_what_is_printed(groups in groups()) {
            prop_assert_eq!(parse_status(&print(&groups)).unwrap(), groups);
        }

        #[test]
        fn never_panics(line in ".*") {
            let _ = parse_status(&line);
            let _ = parse_queueing(&line);
        }

        #[test]
        fn never_panics_on_nearly_right_lines(line in "[0-9A-F: ]{0,80}") {
            let _ = parse_status(&line);
        }
    }
}
