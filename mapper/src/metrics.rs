//! What the mapper counts.

use runtime::Metrics;
use runtime::metrics::{Counters, ProblemCounters};
use schemas::{Entity, Mapping};

/// The mapper's metrics.
pub struct MapperMetrics {
    mapped: Counters<2>,
    problems: ProblemCounters,
}

impl MapperMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> MapperMetrics {
        let own = MapperMetrics {
            mapped: metrics.counters(
                "rollcall_records_mapped_total",
                "Versions of records that were mapped, by outcome: ready, out_of_scope, refused.",
                ["entity", "outcome"],
            ),
            problems: ProblemCounters::register(
                metrics,
                "rollcall_mapping_problems_total",
                "Problems found in records, by code; a record may have several.",
            ),
        };
        for entity in Entity::ALL {
            ["ready", "out_of_scope", "refused"]
                .iter()
                .for_each(|outcome| own.mapped.add([entity.token(), outcome], 0));
        }
        own
    }

    /// Counts one mapped version.
    pub fn note(&self, entity: Entity, mapping: &Mapping) {
        let outcome = match mapping {
            Mapping::Client(_) | Mapping::Ticket(_) => "ready",
            Mapping::OutOfScope => "out_of_scope",
            Mapping::Refused(problems) => {
                problems.iter().for_each(|problem| self.problems.add(entity, &problem.code));
                "refused"
            }
        };
        self.mapped.add([entity.token(), outcome], 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_documented() {
        let metrics = Metrics::new("mapper");
        MapperMetrics::register(&metrics);
        let document = include_str!("../../docs/observing.md");
        metrics.check_documented(document, "### mapper").unwrap_or_else(|what| panic!("{what}"));
    }
}
