//! What all fuzz targets begin with.

/// Writes inputs that begin right where libFuzzer looks for its first ones, when `scripts/fuzz.sh` says where that is.
/// Rubbish alone hardly ever has sixteen given bytes at its front.
pub fn plant(seeds: Vec<Vec<u8>>) {
    let Some(corpus) = std::env::var_os("FUZZ_SEEDS") else { return };
    for (number, seed) in seeds.into_iter().enumerate() {
        std::fs::write(std::path::Path::new(&corpus).join(format!("seed-{number}")), seed)
            .expect("the corpus is a directory that can be written");
    }
}
