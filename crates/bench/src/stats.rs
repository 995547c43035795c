//! Medians, percentiles and paired ratios with their confidence interval.

use serde::Serialize;

/// Fewest pairs that a ratio may rest on.
pub const MIN_PAIRS: usize = 15;
/// A ratio whose 95 % interval is wider than this to either side says nothing.
pub const MAX_HALF_WIDTH: f64 = 0.02;

/// Summary of one quantity, in the unit of its samples.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// Smallest sample.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile (nearest rank).
    pub p99: f64,
    /// Largest sample.
    pub max: f64,
}

/// Sorts and summarises; `None` without samples.
pub fn summary(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples);
    Some(Summary {
        n: sorted.len(),
        min: *sorted.first()?,
        p50: quantile(&sorted, 0.5)?,
        p99: quantile(&sorted, 0.99)?,
        max: *sorted.last()?,
    })
}

/// The median of paired ratios `a / b`, with a distribution-free 95 % interval (order statistics of the binomial).
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Number of pairs.
    pub pairs: usize,
    /// Median of the pairs' ratios.
    pub median: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Whether there are enough pairs and the interval is narrow enough to speak.
    pub conclusive: bool,
}

/// Pairs sample by sample; `None` without pairs.
pub fn ratio(a: &[f64], b: &[f64]) -> Option<Ratio> {
    let ratios: Vec<f64> = a.iter().zip(b).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
    let sorted = sorted(&ratios);
    let n = sorted.len();
    let median = quantile(&sorted, 0.5)?;
    let k = lower_rank(n);
    let low = *sorted.get(k)?;
    let high = *sorted.get(n - 1 - k)?;
    let half_width = (high - median).max(median - low) / median;
    Some(Ratio { pairs: n, median, low, high, conclusive: n >= MIN_PAIRS && half_width <= MAX_HALF_WIDTH })
}

/// The largest `k` for which `[x(k), x(n-1-k)]` (from 0) covers the median with probability of at least 95 %.
fn lower_rank(n: usize) -> usize {
    let mut tail = 0.0;
    let mut term = 0.5f64.powi(n as i32);
    let mut k = 0;
    for i in 0..n / 2 {
        tail += term;
        if tail > 0.025 {
            break;
        }
        k = i + 1;
        term *= (n - i) as f64 / (i + 1) as f64;
    }
    // x(k) from 1 is index k - 1 from 0; with too few samples the whole range is all there is.
    k.saturating_sub(1)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    if q == 0.5 && !sorted.is_empty() && sorted.len().is_multiple_of(2) {
        let upper = sorted.len() / 2;
        return Some((sorted.get(upper)? + sorted.get(upper - 1)?) / 2.0);
    }
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_interval_of_fifteen_pairs_is_the_fourth_from_either_end() {
        // Tabulated: for n = 15 the 95 % interval of the median runs from the 4th to the 12th value.
        let a: Vec<f64> = (1..=15).map(f64::from).collect();
        let r = ratio(&a, &[1.0; 15]).unwrap();
        assert_eq!((r.pairs, r.low, r.median, r.high), (15, 4.0, 8.0, 12.0));
        assert!(!r.conclusive);
    }

    #[test]
    fn equal_pairs_are_conclusive_and_few_are_not() {
        assert!(ratio(&[2.0; 15], &[2.0; 15]).unwrap().conclusive);
        assert!(!ratio(&[2.0; 14], &[2.0; 14]).unwrap().conclusive);
        assert!(ratio(&[], &[]).is_none());
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let s = summary(&(1..=100).map(f64::from).collect::<Vec<_>>()).unwrap();
        assert_eq!((s.min, s.p50, s.p99, s.max), (1.0, 50.5, 99.0, 100.0));
    }
}
