use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where "now" comes from. The catalog keeps time as microseconds since the Unix epoch, because
/// that is what both databases keep without loss.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        }))
    }

    /// The machine's clock, ahead by as many microseconds as `ahead_us` says each time.
    pub fn ahead_by(ahead_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let system = Self::system();
        Self(Arc::new(move || system.now_us().saturating_add(ahead_us())))
    }

    /// Microseconds since the Unix epoch.
    pub fn now_us(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
