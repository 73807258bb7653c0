//! The same work on many items, on several threads. The first error ends all of it, and is the one that is told.

use std::sync::{
    LazyLock, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{VaultError, job::Job};

/// As many threads as are asked for; 0 asks for as many as there are processors.
pub(crate) fn threads(asked: usize) -> usize {
    // To ask the system reads files, each time.
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    match asked {
        0 => *PROCESSORS,
        asked => asked,
    }
}

/// Runs `each` for every item on up to `threads` threads, and stops at the first error.
pub(crate) fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    job: &Job,
    each: impl Fn(&T) -> Result<(), VaultError> + Sync,
) -> Result<(), VaultError> {
    in_parallel_with(items, threads, job, || Ok(()), |(), item| each(item), |()| Ok(()))
}

/// As `in_parallel`, where each thread works with something of its own: `open` makes it before the first item, `close`
/// ends it after the last.
pub(crate) fn in_parallel_with<T: Sync, W>(
    items: &[T],
    threads: usize,
    job: &Job,
    open: impl Fn() -> Result<W, VaultError> + Sync,
    each: impl Fn(&mut W, &T) -> Result<(), VaultError> + Sync,
    close: impl Fn(W) -> Result<(), VaultError> + Sync,
) -> Result<(), VaultError> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<VaultError>> = Mutex::new(None);
    let work = || {
        let mut own = open()?;
        while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
            job.check()?;
            each(&mut own, item)?;
        }
        close(own)
    };
    let work = || {
        if let Err(error) = work() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            // Nobody takes another one.
            next.store(items.len(), Relaxed);
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them: to make one costs more than many an item does.
        for _ in 1..threads.min(items.len()) {
            scope.spawn(work);
        }
        if !items.is_empty() {
            work();
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_each_thread_ends() {
        let items: Vec<u64> = (1..=100).collect();
        for threads in [0, 1, 3, 1000] {
            let (sum, open) = (Mutex::new((0, 0)), AtomicUsize::new(0));
            let opened = || {
                open.fetch_add(1, Relaxed);
                Ok(0)
            };
            let closed = |own: u64| {
                let mut sum = sum.lock().expect("no panic");
                *sum = (sum.0 + own, sum.1 + 1);
                Ok(())
            };
            let each = |own: &mut u64, item: &u64| {
                *own += item;
                Ok(())
            };
            in_parallel_with(&items, threads, &Job::default(), opened, each, closed).expect("done");
            let opened = open.into_inner();
            assert_eq!(*sum.lock().expect("no panic"), (5050, opened), "{threads} threads");
            assert!((1..=100).contains(&opened));
        }
        let none: &[u64] = &[];
        in_parallel(none, 4, &Job::default(), |_| Err(VaultError::Stopped)).expect("nothing to do");
    }

    #[test]
    fn the_first_error_is_told_and_ends_it() {
        let items: Vec<usize> = (0..1000).collect();
        let done = AtomicUsize::new(0);
        let outcome = in_parallel(&items, 1, &Job::default(), |item| {
            done.fetch_add(1, Relaxed);
            if *item < 10 { Ok(()) } else { Err(VaultError::NoSuchPoint(item.to_string())) }
        });
        assert!(matches!(outcome, Err(VaultError::NoSuchPoint(item)) if item == "10"));
        assert_eq!(done.into_inner(), 11);
        assert!(threads(0) >= 1 && threads(3) == 3);
    }
}
