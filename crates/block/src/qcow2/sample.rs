//! Small images, made byte by byte: for tests of what an image may say, which no program would write.

use std::io::Write;

pub(crate) const CLUSTER: usize = 512;

/// An image of 512-byte clusters: header, L1 table at cluster 1, one L2 table at 2, data from 3 on.
pub(crate) fn image(entries: &[u64], clusters: usize) -> Vec<u8> {
    image_of(CLUSTER, entries, clusters)
}

fn image_of(cluster: usize, words: &[u64], clusters: usize) -> Vec<u8> {
    let mut bytes = vec![0; cluster * clusters];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    bytes[7] = 3;
    bytes[23] = cluster.ilog2() as u8;
    bytes[24..32].copy_from_slice(&(64 * cluster as u64).to_be_bytes());
    bytes[39] = 1;
    bytes[40..48].copy_from_slice(&(cluster as u64).to_be_bytes());
    bytes[100..104].copy_from_slice(&104_u32.to_be_bytes());
    bytes[cluster..cluster + 8].copy_from_slice(&(2 * cluster as u64).to_be_bytes());
    for (n, word) in words.iter().enumerate() {
        bytes[2 * cluster + 8 * n..][..8].copy_from_slice(&word.to_be_bytes());
    }
    for (n, byte) in bytes.iter_mut().enumerate().skip(3 * cluster) {
        *byte = (n / cluster) as u8;
    }
    bytes
}

/// One of each kind, and whether it has something below it (1) and a data file of its own (2).
pub(crate) fn all() -> Vec<(u8, Vec<u8>)> {
    let c = CLUSTER as u64;
    let plain = image(&[3 * c, 4 * c, 0, 1, 6 * c], 7);
    let mut version_2 = image(&[3 * c, 0, 5 * c], 6);
    version_2[7] = 2;
    let mut external = image(&[1 << 63, 4 * c], 3);
    external[79] = 4;
    let mut named = image(&[3 * c], 4);
    // A name behind the end of the extensions: the backing format, and the end.
    named[104..112].copy_from_slice(&[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3]);
    named[112..115].copy_from_slice(b"raw");
    named[15] = 128;
    named[19] = 4;
    named[128..132].copy_from_slice(b"base");
    // Subclusters need clusters of 16 KiB: data, zeroes, what is below.
    let mut fine = image_of(16 << 10, &[3 * (16 << 10), 0b11 | 0b100 << 32, 0, 0], 4);
    fine[79] = 16;
    vec![(0, plain.clone()), (1, plain), (0, version_2), (2, external), (1, named), (1, fine)]
        .into_iter()
        .chain([packed(false), packed(true)].map(|image| (0, image)))
        .collect()
}

/// With a compressed cluster.
fn packed(with_zstd: bool) -> Vec<u8> {
    let content = [7; CLUSTER];
    let data = if with_zstd {
        zstd::bulk::compress(&content, 3).expect("packed")
    } else {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&content).and_then(|()| encoder.finish()).expect("packed")
    };
    let mut bytes = image(&[(1 << 62) | (3 * CLUSTER as u64)], 4);
    bytes[3 * CLUSTER..3 * CLUSTER + data.len()].copy_from_slice(&data);
    if with_zstd {
        bytes[79] = 8;
        bytes[103] = 112;
        bytes[104] = 1;
    }
    bytes
}
