//! The calls without tensors.

use tonic::{Request, Response, Status};
use triton::model_repository_parameter::ParameterChoice;
use triton::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse,
    LogSettingsRequest, LogSettingsResponse, ModelConfigRequest, ModelConfigResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelRepositoryParameter,
    ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse, TraceSettingRequest,
    TraceSettingResponse,
};
use wire::{Error, ErrorCode};

use super::generated::grpc_inference_service_server::GrpcInferenceService;
use super::request::target;
use super::{Grpc, status};
use crate::access::Principal;
use crate::describe;
use crate::repository::load_parameters;
use crate::target::Target;

type Answer<T> = Result<Response<T>, Status>;

/// An answer that may fail in the words of the request path.
fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status::of(&error))
}

fn unsupported<T>(instead: &str) -> Answer<T> {
    answer(Err(Error::new(ErrorCode::Unsupported, instead)))
}

const NO_SHARED_MEMORY: &str = "shared memory regions are not served: send tensors in raw_input_contents";
const NO_TRACE: &str = "trace settings are not served: they are part of the configuration ([traces])";
const NO_LOG: &str = "log settings are not served here: POST /v2/logging, or mast log";

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        answer(Ok(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        answer(Ok(ServerReadyResponse { ready: self.serve().is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let principal = Principal::of(request.extensions());
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = permitted(&principal, &name, &version).and_then(|target| {
            match self.serve().is_model_ready(&target.model, target.version) {
                // Triton: what is not there is not ready, and that is no error.
                Err(error) if matches!(error.code, ErrorCode::UnknownModel | ErrorCode::NotFound) => {
                    Ok(false)
                }
                ready => ready,
            }
        });
        answer(ready.map(|ready| ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        request: Request<ServerMetadataRequest>,
    ) -> Answer<ServerMetadataResponse> {
        answer(Ok(describe::server(Principal::of(request.extensions()).may_administer())))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let principal = Principal::of(request.extensions());
        let ModelMetadataRequest { name, version } = request.into_inner();
        let view = permitted(&principal, &name, &version)
            .and_then(|target| self.serve().find(&target.model, target.version));
        answer(view.map(|view| describe::metadata(&view)))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let principal = Principal::of(request.extensions());
        let ModelConfigRequest { name, version } = request.into_inner();
        let view = permitted(&principal, &name, &version)
            .and_then(|target| self.serve().find(&target.model, target.version));
        answer(view.map(|view| ModelConfigResponse { config: Some(describe::config(&view)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Answer<ModelStatisticsResponse> {
        let principal = Principal::of(request.extensions());
        let ModelStatisticsRequest { name, version } = request.into_inner();
        // No name is all models.
        let model = Some(name.as_str()).filter(|name| !name.is_empty());
        let permitted = model.map_or(Ok(()), |model| principal.permit(model));
        let statistics = permitted
            .and_then(|()| target(&name, &version))
            .and_then(|target| describe::statistics(self.serve(), &principal, model, target.version));
        answer(statistics)
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Answer<RepositoryIndexResponse> {
        let principal = Principal::of(request.extensions());
        let RepositoryIndexRequest { repository_name, ready } = request.into_inner();
        answer(only_repository(&repository_name).map(|()| describe::index(self.serve(), &principal, ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        let principal = Principal::of(request.extensions());
        let RepositoryModelLoadRequest { repository_name, model_name, parameters } = request.into_inner();
        let loaded = async {
            principal.permit(&model_name)?;
            principal.administer()?;
            only_repository(&repository_name)?;
            let parameters = load_parameters(parameters.iter().map(|(key, value)| (key, text_of(value))))?;
            self.serve().load_with(&model_name, parameters).await
        };
        answer(loaded.await.map(|()| RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        let principal = Principal::of(request.extensions());
        let RepositoryModelUnloadRequest { repository_name, model_name, .. } = request.into_inner();
        let unloaded = async {
            principal.permit(&model_name)?;
            principal.administer()?;
            only_repository(&repository_name)?;
            self.serve().unload(&model_name).await
        };
        answer(unloaded.await.map(|()| RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answer<CudaSharedMemoryRegisterResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        unsupported(NO_SHARED_MEMORY)
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        unsupported(NO_TRACE)
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        unsupported(NO_LOG)
    }
}

/// The model of a call, which the caller may use.
fn permitted(principal: &Principal, name: &str, version: &str) -> Result<Target, Error> {
    principal.permit(name)?;
    target(name, version)
}

fn text_of(value: &ModelRepositoryParameter) -> Option<&str> {
    match &value.parameter_choice {
        Some(ParameterChoice::StringParam(text)) => Some(text),
        _ => None,
    }
}

/// There is one repository, and it has no name.
fn only_repository(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Unsupported, "'repository_name' specification is not supported"))
}
