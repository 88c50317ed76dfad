//! Limits how much is in use at once, in all and by one holder.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of equal shares, of which one holder has only a part.
#[derive(Debug)]
pub struct Shares<K> {
    all: Arc<Semaphore>,
    most_of_one: usize,
    held: Mutex<HashMap<K, usize>>, // never locked across an await
}

/// A share, until dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    holder: Option<K>,
    _one: OwnedSemaphorePermit,
}

/// Why there is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// All are in use.
    All,
    /// The holder has as many as one may have.
    OfHolder,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// `most` shares, of which one holder has at most `most_of_one`.
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(most)), most_of_one, held: Mutex::default() })
    }

    /// A share for that holder; `None` may have all of them.
    ///
    /// # Errors
    /// There is none.
    pub fn take(self: &Arc<Self>, holder: Option<K>) -> Result<Share<K>, Exhausted> {
        let one = self.all.clone().try_acquire_owned().map_err(|_| Exhausted::All)?;
        if let Some(holder) = &holder {
            let mut held = self.held();
            let count = held.entry(holder.clone()).or_default();
            if *count >= self.most_of_one {
                return Err(Exhausted::OfHolder);
            }
            *count += 1;
        }
        Ok(Share { shares: self.clone(), holder, _one: one })
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.all.available_permits()
    }
}

impl<K> Shares<K> {
    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let Some(holder) = &self.holder else { return };
        let mut held = self.shares.held();
        if let Some(count) = held.get_mut(holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(holder);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_has_a_part_of_the_shares() {
        let shares = Shares::new(4, 2);
        let mut of_one: Vec<_> = (0..2).map(|_| shares.take(Some("one")).unwrap()).collect();
        assert_eq!(shares.take(Some("one")).unwrap_err(), Exhausted::OfHolder);
        assert_eq!(shares.left(), 2, "a rejected request holds no share");
        let _other = shares.take(Some("other")).unwrap();
        of_one.pop();
        assert!(shares.take(Some("one")).is_ok());
    }

    #[test]
    fn nobody_has_more_than_all_shares_and_nothing_is_kept_of_past_holders() {
        let shares = Shares::new(4, 2);
        let all: Vec<_> =
            [None, None, None, Some("one")].into_iter().map(|holder| shares.take(holder).unwrap()).collect();
        assert_eq!(shares.take(Some("other")).unwrap_err(), Exhausted::All);
        drop(all);
        assert!(shares.held().is_empty());
        assert_eq!(shares.left(), 4);
    }
}
