//! Wall-clock times as text (RFC 3339), for serde.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use humantime::{format_rfc3339_millis, parse_rfc3339};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    write!(text, "{}", format_rfc3339_millis(*time)).map_err(S::Error::custom)?;
    serializer.serialize_str(&text)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    parse_rfc3339(&Cow::<str>::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The same for optional times.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<Cow<str>>::deserialize(deserializer)?;
        text.map(|text| parse_rfc3339(&text).map_err(D::Error::custom)).transpose()
    }
}
