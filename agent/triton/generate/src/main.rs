//! Writes `../src/generated/` from `../proto/`: the messages, the descriptors for the text format, and the service for
//! tonic. `cargo run --manifest-path agent/triton/generate/Cargo.toml`

use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut descriptors = protox::compile(["grpc_service.proto", "model_config.proto"], [root.join("proto")])?;
    // Comments, which are most of it.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = root.join("src/generated");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut messages = prost_build::Config::new();
    messages
        .out_dir(&out)
        // Tensors stay in the memory they were received in.
        .bytes([".inference.ModelInferRequest.raw_input_contents", ".inference.ModelInferResponse.raw_output_contents"])
        .compile_fds(descriptors.clone())?;

    // These two are served by hand, so that a message has room in the byte budget before it is read.
    for service in descriptors.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| !matches!(method.name(), "ModelInfer" | "ModelStreamInfer"));
    }
    let service = root.join("../front/src/grpc/generated");
    std::fs::create_dir_all(&service)?;
    tonic_prost_build::configure()
        .out_dir(&service)
        .build_client(false)
        .extern_path(".inference", "::triton")
        .compile_fds(descriptors)?;
    Ok(())
}
