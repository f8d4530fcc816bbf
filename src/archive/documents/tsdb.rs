//! What Prometheus says about its own store.

use super::field::object;
use super::json_documents;

object! {
    /// Statistics of the store.
    pub struct Tsdb {
        /// The answer.
        pub data: TsdbData = "data",
    }

    /// What of `data` is read.
    pub struct TsdbData {
        /// Of the part in memory.
        pub head: TsdbHead = "headStats",
        /// The metrics with the most series, largest first.
        pub series_by_metric: Vec<SeriesCount> = "seriesCountByMetricName",
    }

    /// What of `headStats` is read.
    pub struct TsdbHead {
        /// Number of series.
        pub series: i64 = "numSeries",
    }

    /// Series of one metric.
    pub struct SeriesCount {
        /// The metric.
        pub name: String = "name",
        /// How many series it has.
        pub count: i64 = "value",
    }
}

json_documents!(Tsdb);
