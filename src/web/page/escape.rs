//! Escapes external text for the page, so that a browser never interprets it as markup.

use std::fmt::{self, Display, Write};
use std::sync::Arc;

/// Text with HTML markup escaped. Control characters, and those that change the text direction, are
/// replaced: a reader could not see them.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in self.0.char_indices() {
            let instead = match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "\u{fffd}",
                c if c.is_control() => "\u{fffd}",
                _ => continue,
            };
            f.write_str(&self.0[plain..at])?;
            f.write_str(instead)?;
            plain = at + c.len_utf8();
        }
        f.write_str(&self.0[plain..])
    }
}

/// Several names, separated by commas.
pub(crate) struct NameList<'a>(pub(crate) &'a [Arc<str>]);

impl Display for NameList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, name) in self.0.iter().enumerate() {
            let between = if number == 0 { "" } else { ", " };
            write!(f, "{between}{}", Escaped(name))?;
        }
        Ok(())
    }
}

/// Escaped text with a maximum number of characters. The middle is omitted, because names differ at
/// their ends.
pub(crate) struct Shortened<'a>(pub(crate) &'a str, pub(crate) usize);

impl Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortened(text, limit) = *self;
        let length = text.chars().count();
        if length <= limit {
            return Escaped(text).fmt(f);
        }
        let (head, tail) = (limit / 2, limit.saturating_sub(limit / 2 + 1));
        let at = |index| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
        Escaped(&text[..at(head)]).fmt(f)?;
        f.write_char('…')?;
        Escaped(&text[at(length - tail)..]).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup() {
        let text = "<script>alert('1')</script> & \"mpatha\"";
        let shown = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;mpatha&quot;";
        assert_eq!(Escaped(text).to_string(), shown);
        for plain in ["", "mpatha", "Ätna-é-漢字", "0x21000024ff3a1b2c"] {
            assert_eq!(Escaped(plain).to_string(), plain);
        }
    }

    #[test]
    fn nothing_hides() {
        assert_eq!(
            Escaped("a\nb\0c\u{1b}[31m\u{7f}\u{85}").to_string(),
            "a\u{fffd}b\u{fffd}c\u{fffd}[31m\u{fffd}\u{fffd}"
        );
        assert_eq!(Escaped("a\u{202e}b\u{2066}c").to_string(), "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn long_names_keep_both_ends() {
        for (text, shown) in
            [("", ""), ("0123456789", "0123456789"), ("0123456789a", "01234…789a"), ("äöüäöüäöü<>", "äöüäö…öü&lt;&gt;")]
        {
            assert_eq!(Shortened(text, 10).to_string(), shown);
        }
    }
}
