#![expect(clippy::print_stdout, reason = "try")]
use nestling_block::BlockSource;
use nestling_block::RawDisk;
use nestling_vault::{
    format::{Timestamp, key::KdfCost},
    storage::LocalStorage,
    *,
};
use std::{sync::Arc, time::Instant};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let path = std::path::Path::new(&a[1]);
    let who = Identity::current();
    let repo = Arc::new(if path.join("config").exists() {
        Repository::open(Arc::new(LocalStorage::open(path).unwrap()), b"x").unwrap()
    } else {
        Repository::init(Arc::new(LocalStorage::create(path).unwrap()), b"x", &who, KdfCost::Standard)
            .unwrap()
    });
    let job = Job::default();
    match a[2].as_str() {
        "save" => {
            let name: PointName = a[3].parse().unwrap();
            let disk = RawDisk::open(std::path::Path::new(&a[4])).unwrap();
            let changed = a.get(5).map(|f| {
                nestling_block::ExtentSet::read(std::fs::File::open(f).unwrap(), disk.size_bytes()).unwrap()
            });
            let parent = changed.as_ref().map(|_| repo.find_point(&name, None, &job).unwrap());
            let r = repo
                .save(
                    &SaveRequest {
                        name: &name,
                        disks: &[DiskInput { name: "disk0", source: &disk, changed: changed.as_ref() }],
                        description: None,
                        time: Timestamp::from(std::time::SystemTime::now()),
                        tags: &[],
                        parent: parent.as_ref(),
                        who: &who,
                        threads: 0,
                    },
                    &job,
                )
                .unwrap();
            println!("{r:?}");
        }
        "restore" => {
            let index = Arc::new(repo.load_index(&job).unwrap());
            let p = repo.find_point(&a[3].parse().unwrap(), None, &job).unwrap();
            let d = PointDisk::open(&repo, &index, &p, None, 64 << 20).unwrap();
            let t = RawDisk::create(std::path::Path::new(&a[4]), d.size_bytes()).unwrap();
            println!(
                "{:?}",
                restore(
                    &RestoreRequest {
                        repository: &repo,
                        index: &index,
                        disk: &d,
                        target: &t,
                        existing: Existing::Zeroes,
                        ranges: None,
                        threads: 0
                    },
                    &job
                )
                .unwrap()
            );
        }
        "random" => {
            let index = Arc::new(repo.load_index(&job).unwrap());
            let p = repo.find_point(&a[3].parse().unwrap(), None, &job).unwrap();
            let d = PointDisk::open(&repo, &index, &p, None, 64 << 20).unwrap();
            let mut offs = vec![];
            let mut s = 12345u64;
            let mut buf = vec![0u8; 4096];
            while offs.len() < 200 {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                let o = s % (d.size_bytes() / 4096) * 4096;
                if d.extents(o..o + 4096).unwrap()[0].kind == nestling_block::ExtentKind::Data {
                    offs.push(o)
                }
            }
            for round in 0..2 {
                let mut t: Vec<u128> = offs
                    .iter()
                    .map(|o| {
                        let b = Instant::now();
                        d.read(&mut buf, *o).unwrap();
                        b.elapsed().as_micros()
                    })
                    .collect();
                t.sort();
                println!("round {round} p50 {} p99 {} us", t[100], t[198]);
            }
        }
        "verify" => println!("{:?}", repo.verify(DataCheck::All, &who, &job).unwrap()),
        "prune" => {
            let p = repo.prune_plan(PruneOptions::default(), &who, &job).unwrap();
            println!("{:?}", p.summary);
            println!("{:?}", repo.prune(p, &who, &job).unwrap())
        }
        _ => panic!(),
    }
}
