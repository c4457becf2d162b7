//! Lines of `key=value` that `go-logfmt` can parse. Loki, Alloy and promtail read the log with it.
//!
//! A value that is more than plain visible text is quoted, and invisible characters in it are
//! escaped as in JSON. Names come from storage arrays and administrators, and may contain a line
//! break or a character that reverses the text on a screen. The rules are those of `decode.go` and
//! `jsonstring.go` in <https://github.com/go-logfmt/logfmt>. Other Rust crates use
//! [`str::escape_debug`]. Its `\u{1b}` and `\0` are not JSON, so readers lose the rest of the line.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Writes an event as one line: time, level, and its fields. This program has no spans.
pub struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(writer, "ts={} level={level}", humantime::format_rfc3339_nanos(SystemTime::now()))?;
        let mut fields = Fields { writer, value: String::new(), written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        writeln!(fields.writer)
    }
}

/// Writes the fields in their order.
struct Fields<'a> {
    writer: Writer<'a>,
    /// The last value before quoting. Its buffer is reused.
    value: String,
    written: fmt::Result,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.written = self.written.and_then(|()| pair(&mut self.writer, field.name(), value));
    }

    /// All other values, including numbers.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.value.clear();
        self.written = self
            .written
            .and_then(|()| write!(self.value, "{value:?}"))
            .and_then(|()| pair(&mut self.writer, field.name(), &self.value));
    }
}

/// Writes one ` key=value`. A key cannot be quoted, so characters that it may not have are dropped.
/// All keys are words of this program.
fn pair(writer: &mut impl Write, key: &str, value: &str) -> fmt::Result {
    writer.write_char(' ')?;
    key.chars().filter(|c| is_plain(*c)).try_for_each(|c| writer.write_char(c))?;
    writer.write_char('=')?;
    if value.chars().all(is_plain) { writer.write_str(value) } else { quoted(writer, value) }
}

/// Returns true if the character may stand outside of quotes.
fn is_plain(c: char) -> bool {
    is_visible(c) && !matches!(c, ' ' | '=' | '"' | '\'' | char::REPLACEMENT_CHARACTER)
}

/// Returns true for a visible character. A character is invisible if it controls a terminal, has no
/// width, joins the character before it, or reverses the text. The last kind is U+061C, U+200E and
/// F, U+202A to E, U+2066 to 9. The standard library escapes exactly these. A character that it
/// escapes in two characters is visible.
fn is_visible(c: char) -> bool {
    c.escape_debug().len() <= 2 && !c.is_control()
}

fn quoted(writer: &mut impl Write, value: &str) -> fmt::Result {
    writer.write_char('"')?;
    for c in value.chars() {
        match c {
            '"' | '\\' => write!(writer, "\\{c}")?,
            '\n' => writer.write_str("\\n")?,
            '\r' => writer.write_str("\\r")?,
            '\t' => writer.write_str("\\t")?,
            c if is_visible(c) => writer.write_char(c)?,
            c => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
        }
    }
    writer.write_char('"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(key: &str, value: &str) -> String {
        let mut text = String::new();
        pair(&mut text, key, value).unwrap();
        text
    }

    #[test]
    fn values_are_quoted_and_escaped_as_in_go() {
        for (value, text) in [
            ("", ""),
            ("sdb", "sdb"),
            ("1ns", "1ns"),
            ("8:16", "8:16"),
            (r"C:\", r"C:\"),
            ("Größe", "Größe"),
            ("磁盘", "磁盘"),
            ("two words", r#""two words""#),
            ("a=b", r#""a=b""#),
            ("say \"no\"", r#""say \"no\"""#),
            // Some versions of go-logfmt take an apostrophe for a quote.
            ("client's", r#""client's""#),
            (r"back \ slash", r#""back \\ slash""#),
            ("a\nb\tc\rd", r#""a\nb\tc\rd""#),
            ("\0", r#""\u0000""#),
            ("\x1b[31m", r#""\u001b[31m""#),
            ("\x7f", r#""\u007f""#),
            ("\u{85}", r#""\u0085""#),
            ("a\u{a0}b", r#""a\u00a0b""#),
            ("\u{ad}", r#""\u00ad""#),
            ("e\u{301}", r#""e\u0301""#),
            ("a\u{2028}b", r#""a\u2028b""#),
            ("\u{feff}", r#""\ufeff""#),
            ("\u{200b}", r#""\u200b""#),
            ("\u{fffd}", "\"\u{fffd}\""),
            ("\u{e0041}", r#""\udb40\udc41""#),
        ] {
            assert_eq!(written("key", value), format!(" key={text}"), "{value:?}");
        }
    }

    #[test]
    fn nothing_turns_the_text_round() {
        let directions = [0x61c, 0x200e, 0x200f].into_iter().chain(0x202a..=0x202e).chain(0x2066..=0x2069);
        for direction in directions {
            let value = format!("a{}b", char::from_u32(direction).unwrap());
            assert_eq!(written("key", &value), format!(" key=\"a\\u{direction:04x}b\""));
        }
    }

    #[test]
    fn keys_lose_what_they_may_not_have() {
        for key in ["k ey", "k=ey", "k\"e\"y", "k\ney", "k\u{202e}ey", "k\u{fffd}ey", "k'ey", "\0key"] {
            assert_eq!(written(key, "v"), " key=v", "{key:?}");
        }
    }

    proptest! {
        /// go-logfmt parses a quoted value as a JSON string, so a JSON parser checks that every
        /// reader can read it.
        #[test]
        fn whatever_comes_can_be_read_again(value in prop_oneof![any::<String>(), "\\PC{0,8}", "[\\x00-\\xff]{0,8}"]) {
            let line = written("key", &value);
            let text = line.strip_prefix(" key=").unwrap();
            let read = if text.starts_with('"') { serde_json::from_str(text).unwrap() } else { text.to_owned() };
            prop_assert_eq!(read, value);
            prop_assert!(!text.starts_with('"') || text.chars().all(is_visible));
        }
    }
}
