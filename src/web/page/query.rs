//! The query of the page's address. Anybody can write an address, so invalid parts are ignored.

use std::fmt::{self, Display};

use form_urlencoded::{byte_serialize, parse};

use crate::topology::Device;

/// Longer than any name or WWID.
const MAX_FILTER_LENGTH: usize = 256;

/// `?q=FILTER&page=NUMBER`
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// The text that names and WWIDs must contain. Empty selects all devices.
    pub(crate) filter: String,
    /// The page of the list of devices, from 1.
    pub(crate) page: usize,
}

impl Query {
    /// Parses the query of an address, without its question mark.
    pub(crate) fn parse(query: &str) -> Self {
        let value = |name| parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value);
        let filter = value("q").unwrap_or_default();
        let page = value("page").and_then(|page| page.parse().ok()).unwrap_or(1);
        Query { filter: filter.trim().chars().take(MAX_FILTER_LENGTH).collect(), page: page.max(1) }
    }

    /// Returns true if the filter selects this device. Ignores case, because a WWID may be dictated
    /// over the phone.
    pub(crate) fn selects(&self, device: &Device) -> bool {
        let filter = self.filter.to_lowercase();
        let names = [&device.name, &device.wwid, &device.sysfs_name];
        filter.is_empty() || names.iter().any(|name| name.to_lowercase().contains(&filter))
    }
}

/// The query as part of an address, with its question mark.
impl Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("?q=")?;
        byte_serialize(self.filter.as_bytes()).try_for_each(|part| f.write_str(part))?;
        if self.page > 1 { write!(f, "&page={}", self.page) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(filter: &str, page: usize) -> Query {
        Query { filter: filter.to_owned(), page }
    }

    #[test]
    fn what_an_address_asks_for() {
        for (text, wanted) in [
            ("", query("", 1)),
            ("q=mpatha", query("mpatha", 1)),
            ("page=2&q=a+b%20c", query("a b c", 2)),
            ("q=%3Cscript%3E&x=y", query("<script>", 1)),
            ("q=a&q=b", query("a", 1)),
            ("page=0", query("", 1)),
            ("page=-1", query("", 1)),
            ("page=99999999999999999999999", query("", 1)),
            ("page=two&q", query("", 1)),
            ("q=%ff%fe%", query("\u{fffd}\u{fffd}%", 1)),
            ("&&==&;", query("", 1)),
        ] {
            assert_eq!(Query::parse(text), wanted, "{text:?}");
        }
        assert_eq!(Query::parse(&format!("q={}", "ä".repeat(999))).filter.chars().count(), MAX_FILTER_LENGTH);
    }

    proptest! {
        #[test]
        fn an_address_asks_for_what_it_was_made_of(filter in "\\PC{0,20}", page in 1_usize..) {
            let asked = query(filter.trim(), page);
            prop_assert_eq!(Query::parse(asked.to_string().trim_start_matches('?')), asked);
        }

        #[test]
        fn whatever_comes_is_understood_somehow(text in ".*") {
            prop_assert!(Query::parse(&text).page > 0);
        }
    }
}
