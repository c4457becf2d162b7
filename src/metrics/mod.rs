//! The metrics: the snapshot's devices, and the exporter's own numbers.
//!
//! ```text
//! Snapshot ─► devices.rs ─┐                        ┌─► OpenMetrics 1.0
//!                         ├─► prometheus-client ───┤
//! own.rs, process.rs ─────┘                        └─► text.rs: Prometheus text 0.0.4
//! ```
//!
//! `exposition.rs` keeps the part of the page that depends only on the snapshot, encoded and
//! compressed, until the next snapshot. It adds the exporter's own numbers, which change with every
//! scrape.

pub mod devices;
pub mod exposition;
pub(crate) mod http;
pub(crate) mod own;
pub(crate) mod process;
mod text;
mod transport;

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

/// Declares a label set that borrows its values, which `derive(EncodeLabelSet)` cannot do.
macro_rules! labels {
    ($name:ident { $($label:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, Copy)]
        struct $name<'a> {
            $($label: $type),*
        }

        impl prometheus_client::encoding::EncodeLabelSet for $name<'_> {
            fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder) -> std::fmt::Result {
                use prometheus_client::encoding::EncodeLabel;
                $((stringify!($label), self.$label).encode(encoder.encode_label())?;)*
                Ok(())
            }
        }
    };
}
use labels;

/// Writes metric families.
struct Families<'a>(DescriptorEncoder<'a>);

const NO_EXEMPLAR: Option<&Exemplar<[(&str, &str); 0], f64>> = None;

impl Families<'_> {
    /// Writes a gauge without labels. Without a value it writes only the description.
    fn number<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: Option<V>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value))
    }

    fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Writes a counter without labels. `name` comes without `_total`.
    fn total<V: EncodeCounterValue>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter(&value, NO_EXEMPLAR)
    }

    fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    /// Writes a counter. `name` comes without `_total`.
    fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples
            .into_iter()
            .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR))
    }
}
