use std::fs::File;
use std::io::Write;

use engine::DataType;

use super::*;

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_cache_folder_belongs_to_one_model_gpu_and_driver() {
    assert_eq!(cache_key("ab12", "NVIDIA L4", "535.54.03"), "ab12-tensorrt-nvidia-l4-535.54.03");
    assert_eq!(cache_key("ab12", "../RTX™ A2000\n", "a/b"), "ab12-tensorrt-..-rtx--a2000-a-b");
    let keys = [
        cache_key("ab12", "NVIDIA L4", "535.54.03"),
        cache_key("ab13", "NVIDIA L4", "535.54.03"),
        cache_key("ab12", "NVIDIA T4", "535.54.03"),
        cache_key("ab12", "NVIDIA L4", "550.54.03"),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key) && Path::new(key).components().count() == 1, "{key}");
    }
}

#[test]
fn the_digest_covers_external_data_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.onnx");
    write(&model, b"graph location weights.bin end");
    write(&dir.path().join("weights.bin"), b"one");
    write(&dir.path().join("labels.txt"), b"cat");
    let first = model_sha256(&model).unwrap();
    assert_eq!(first.len(), 64);
    write(&dir.path().join("labels.txt"), b"dog");
    assert_eq!(model_sha256(&model).unwrap(), first);
    write(&dir.path().join("weights.bin"), b"two");
    assert_ne!(model_sha256(&model).unwrap(), first);
}

fn signature(shapes: &[(&str, &[Option<usize>])]) -> Signature {
    let spec = |(name, shape): &(&str, &[Option<usize>])| TensorSpec {
        name: (*name).to_owned(),
        datatype: DataType::Fp32,
        shape: shape.iter().map(|dim| dim.map_or(Dim::Dynamic(None), Dim::Fixed)).collect(),
    };
    Signature { inputs: shapes.iter().map(spec).collect(), outputs: Vec::new() }
}

#[test]
fn profiles_bound_the_batch_axis_and_no_other() {
    let both = signature(&[("image", &[None, Some(3), Some(8)]), ("scale", &[Some(1)])]);
    let made = profile(&both).unwrap();
    assert_eq!((made.min.as_str(), made.max.as_str()), ("image:1x3x8", "image:64x3x8"));
    assert_eq!(made.tuned, "image:8x3x8");
    let batch = zeros(&both).unwrap();
    let shapes: Vec<_> = batch.members[0].inputs.iter().map(|input| input.shape().to_vec()).collect();
    assert_eq!(shapes, [vec![1, 3, 8], vec![1]]);
    assert_eq!(profile(&signature(&[("x", &[Some(1), Some(3)])])).unwrap().max, "");
    for unfit in [signature(&[("x", &[None, None])]), signature(&[("a:b", &[None])])] {
        assert!(matches!(profile(&unfit), Err(LoadError::Build { .. })), "{unfit:?}");
    }
}

#[test]
fn progress_counts_engine_files() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    assert!(!prepare(&cache).unwrap());
    let progress = BuildProgress::default();
    watch_engines(&cache, &progress, || {
        write(&cache.join("a.engine"), b"");
        write(&cache.join("b.engine"), b"");
        write(&cache.join("c.timing"), b"");
    });
    assert_eq!(progress.get(), (2, None));
    assert!(prepare(&cache).unwrap());
}

#[test]
fn a_bad_cache_is_deleted_and_built_anew_once() {
    // (a file was left, results of the compilations) → compilations run, ends well
    let check = |left: bool, results: &[bool], runs: usize, ok: bool| {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let file = cache.join("old.engine");
        if left {
            fs::create_dir_all(&cache).unwrap();
            write(&file, b"of another driver");
        }
        let mut run = 0;
        let built = with_cache(&cache, || {
            assert!(cache.is_dir());
            assert_eq!(file.exists(), left && run == 0);
            run += 1;
            match results[run - 1] {
                true => Ok(()),
                false => Err(LoadError::Build { provider: Provider::TensorRt, detail: "bad".to_owned() }),
            }
        });
        assert_eq!((run, built.is_ok()), (runs, ok), "left {left}, {results:?}");
    };
    check(false, &[true], 1, true);
    check(false, &[false], 1, false);
    check(true, &[true], 1, true);
    check(true, &[false, true], 2, true);
    check(true, &[false, false], 2, false);
}
