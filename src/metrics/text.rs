//! Turns OpenMetrics text into Prometheus text 0.0.4.
//!
//! prometheus-client writes OpenMetrics only. The formats differ in their comments: 0.0.4 names a
//! counter with its `_total` and has neither `# UNIT` nor `# EOF`. Types that 0.0.4 does not know,
//! such as `info`, make Prometheus refuse the whole page, so the exporter has none. Samples are the
//! same in both.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{self, Write};

/// A writer that takes OpenMetrics text and passes on text 0.0.4.
#[derive(Debug)]
pub struct PlainText<W> {
    out: W,
    line: String,
    /// The help of the current family, held back until its type is known.
    help: String,
}

impl<W: Write> PlainText<W> {
    /// Passes the text on to `out`.
    pub fn new(out: W) -> Self {
        PlainText { out, line: String::new(), help: String::new() }
    }

    fn end_line(&mut self) -> fmt::Result {
        let line = std::mem::take(&mut self.line);
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), Some(help)) => self.help = help.to_owned(),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                let help = std::mem::take(&mut self.help);
                writeln!(self.out, "# HELP {name}{suffix} {help}")?;
                writeln!(self.out, "# TYPE {name}{suffix} {kind}")?;
            }
            (Some("#"), ..) => {}
            _ => {
                self.out.write_str(&line)?;
                self.out.write_char('\n')?;
            }
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }
}

impl<W: Write> Write for PlainText<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut parts = text.split('\n');
        self.line.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.end_line()?;
            self.line.push_str(part);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_those_of_0_0_4() {
        let mut written = String::new();
        let mut text = PlainText::new(&mut written);
        let openmetrics = "# HELP a_b Counts things.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{x=\"# EOF\"} 1\n\
                           # HELP g Gauge.\n# TYPE g gauge\ng 2.0\n# EOF\n";
        for piece in openmetrics.split_inclusive(' ') {
            text.write_str(piece).unwrap();
        }
        assert_eq!(
            written,
            "# HELP a_b_total Counts things.\n# TYPE a_b_total counter\na_b_total{x=\"# EOF\"} 1\n\
             # HELP g Gauge.\n# TYPE g gauge\ng 2.0\n"
        );
    }
}
