//! Which earlier point a backup counts from, and for which disks tracking is believed.
//!
//! Pure. A bitmap's number was drawn at an instant and stands in the description of the one point that was made of this
//! instant, so a number that both a disk and a point carry says: what this bitmap calls clean is as it is in that point. All
//! disks of a machine carry the same number: that an image is still the disk that it was then, its seal says (`tracking`).
//! Whatever is in doubt is compared instead, which is always right. Only points of the same machine are looked at: a
//! copy of a machine carries the same numbers, and other bytes.

use nestling_hypervisor::capture::{BitmapName, DiskPlace};
use nestling_model::protection::NotTracked;

/// A bitmap of a disk, and why it cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    pub name: BitmapName,
    pub doubt: Option<NotTracked>,
}

/// What a disk is and records at the instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskNow {
    pub place: DiskPlace,
    pub bytes: u64,
    /// Whether a new bitmap can begin.
    pub tracks: bool,
    /// Whether its image keeps bitmaps when the engine ends.
    pub keeps: bool,
    /// Somebody may have written to the image while no engine of ours had it.
    pub touched: bool,
    pub bitmaps: Vec<Bitmap>,
}

/// What a point's description says of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskThen {
    pub place: DiskPlace,
    pub bytes: u64,
    pub bitmap: Option<BitmapName>,
}

/// From where a backup counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// By its number among the points; `None`: there is none.
    pub point: Option<usize>,
    /// For each disk the bitmap that counts from this point, or why all of the disk is looked at.
    pub disks: Vec<Result<BitmapName, NotTracked>>,
}

/// Chooses among a machine's points, newest first. `all` asks for everything to be read.
pub fn choose(disks: &[DiskNow], points: &[Vec<DiskThen>], all: bool) -> Basis {
    if points.is_empty() || all {
        let why = if all { NotTracked::Asked } else { NotTracked::FirstPoint };
        let point = (!points.is_empty()).then_some(0);
        return Basis { point, disks: vec![Err(why); disks.len()] };
    }
    let count_from = |point: &Vec<DiskThen>| -> Vec<Result<BitmapName, NotTracked>> {
        disks.iter().map(|disk| bitmap_of(disk, point)).collect()
    };
    let counted = |found: &[Result<BitmapName, NotTracked>]| {
        let tracked =
            |(disk, found): (&DiskNow, &Result<BitmapName, NotTracked>)| !disk.tracks || found.is_ok();
        found.iter().any(Result::is_ok) && disks.iter().zip(found).all(tracked)
    };
    let whole = points.iter().enumerate().map(|(number, point)| (number, count_from(point)));
    let (number, disks) =
        whole.into_iter().find(|(_, found)| counted(found)).unwrap_or_else(|| (0, count_from(&points[0])));
    Basis { point: Some(number), disks }
}

/// The bitmap that says what changed on a disk since a point.
fn bitmap_of(disk: &DiskNow, point: &[DiskThen]) -> Result<BitmapName, NotTracked> {
    let then = point.iter().find(|then| then.place == disk.place).ok_or(NotTracked::FirstPoint)?;
    let gone = if disk.keeps { NotTracked::BitmapMissing } else { NotTracked::EngineEnded };
    let name =
        then.bitmap.ok_or(if disk.keeps { NotTracked::UnknownPoint } else { NotTracked::EngineEnded })?;
    if disk.touched {
        return Err(NotTracked::ImageTouched);
    }
    if then.bytes != disk.bytes {
        return Err(NotTracked::SizeChanged);
    }
    let Some(bitmap) = disk.bitmaps.iter().find(|bitmap| bitmap.name == name) else {
        // Others are there, so tracking goes on, from points that are not here.
        let others = disk.bitmaps.iter().any(|bitmap| bitmap.doubt.is_none());
        return Err(if others { NotTracked::UnknownPoint } else { gone });
    };
    bitmap.doubt.map_or(Ok(name), Err)
}

#[cfg(test)]
mod tests {
    use nestling_model::Controller;
    use uuid::Uuid;

    use super::*;

    fn place(location: u8) -> DiskPlace {
        DiskPlace { controller: Controller::Scsi, location }
    }

    fn name(number: u128) -> BitmapName {
        BitmapName(Uuid::from_u128(number))
    }

    fn disk(location: u8, bitmaps: &[u128]) -> DiskNow {
        let bitmaps = bitmaps.iter().map(|n| Bitmap { name: name(*n), doubt: None }).collect();
        DiskNow { place: place(location), bytes: 100, tracks: true, keeps: true, touched: false, bitmaps }
    }

    fn then(location: u8, bitmap: u128) -> DiskThen {
        DiskThen { place: place(location), bytes: 100, bitmap: Some(name(bitmap)) }
    }

    #[test]
    fn the_newest_point_that_all_disks_can_count_from_is_taken() {
        let points =
            [vec![then(0, 3), then(1, 3)], vec![then(0, 2), then(1, 2)], vec![then(0, 1), then(1, 1)]];
        let both = |bitmaps: &[u128]| choose(&[disk(0, bitmaps), disk(1, bitmaps)], &points, false);
        assert_eq!(both(&[1, 2, 3]), Basis { point: Some(0), disks: vec![Ok(name(3)); 2] });
        // The newest point's bitmaps are gone, as after a run that was cut off.
        assert_eq!(both(&[1, 2]), Basis { point: Some(1), disks: vec![Ok(name(2)); 2] });
        let mixed = choose(&[disk(0, &[3, 1]), disk(1, &[2, 1])], &points, false);
        assert_eq!(mixed, Basis { point: Some(2), disks: vec![Ok(name(1)); 2] });
    }

    #[test]
    fn one_disk_that_lost_its_tracking_does_not_spoil_the_others() {
        let points = [vec![then(0, 2), then(1, 2)], vec![then(0, 1), then(1, 1)]];
        let basis = choose(&[disk(0, &[2]), disk(1, &[])], &points, false);
        assert_eq!(basis, Basis { point: Some(0), disks: vec![Ok(name(2)), Err(NotTracked::BitmapMissing)] });
        let mut raw = disk(1, &[]);
        raw.keeps = false;
        let basis = choose(&[disk(0, &[2]), raw], &points, false);
        assert_eq!(basis.disks[1], Err(NotTracked::EngineEnded));
        let mut fixed = disk(1, &[]);
        fixed.tracks = false;
        assert_eq!(choose(&[disk(0, &[1]), fixed], &points, false).point, Some(1));
    }

    #[test]
    fn a_first_point_and_what_was_asked_for_count_from_nothing() {
        let none = choose(&[disk(0, &[1])], &[], false);
        assert_eq!(none, Basis { point: None, disks: vec![Err(NotTracked::FirstPoint)] });
        let all = choose(&[disk(0, &[1])], &[vec![then(0, 1)]], true);
        assert_eq!(all, Basis { point: Some(0), disks: vec![Err(NotTracked::Asked)] });
        let new_disk = choose(&[disk(0, &[1]), disk(5, &[1])], &[vec![then(0, 1)]], false);
        assert_eq!(new_disk.disks, [Ok(name(1)), Err(NotTracked::FirstPoint)]);
    }

    #[test]
    fn whatever_is_in_doubt_is_compared() {
        let points = [vec![then(0, 1)]];
        let why = |disk: DiskNow| choose(&[disk], &points, false).disks[0];
        assert_eq!(why(disk(0, &[])), Err(NotTracked::BitmapMissing));
        assert_eq!(why(disk(0, &[7])), Err(NotTracked::UnknownPoint));
        assert_eq!(why(DiskNow { touched: true, ..disk(0, &[1]) }), Err(NotTracked::ImageTouched));
        assert_eq!(why(DiskNow { bytes: 200, ..disk(0, &[1]) }), Err(NotTracked::SizeChanged));
        for doubt in
            [NotTracked::BitmapInconsistent, NotTracked::NotRecording, NotTracked::GranularityChanged]
        {
            let bitmaps = vec![Bitmap { name: name(1), doubt: Some(doubt) }];
            assert_eq!(why(DiskNow { bitmaps, ..disk(0, &[]) }), Err(doubt));
        }
        let unnamed = vec![DiskThen { bitmap: None, ..then(0, 1) }];
        assert_eq!(choose(&[disk(0, &[1])], &[unnamed], false).disks, [Err(NotTracked::UnknownPoint)]);
    }
}
