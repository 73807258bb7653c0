use axum::{Extension, Json, extract::State};
use http::StatusCode;
use nestling_model::{AdapterId, Operation};
use nestling_node::Node;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{Answer, App, Caller, Created, Done, OpenApiRouter, created, list, routes};
use crate::{
    server::input::{Asked, At, Input},
    v1::{self, VmOperation},
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(vms, create_vm))
        .routes(routes!(vm, change_vm, remove_vm))
        .routes(routes!(operate))
        .routes(routes!(add_adapter))
        .routes(routes!(change_adapter, remove_adapter))
        .routes(routes!(add_drive))
        .routes(routes!(remove_drive))
}

/// All machines of this host
#[utoipa::path(get, path = "/v1/vms", tag = "vms",
    responses((status = 200, description = "All machines", body = Vec<v1::Vm>)))]
async fn vms(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Vm>> {
    list(node.vms(&caller).await?)
}

/// Create a machine
#[utoipa::path(post, path = "/v1/vms", tag = "vms", request_body = v1::NewVm,
    responses((status = 201, description = "The machine", body = v1::Vm)))]
async fn create_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewVm>,
) -> Created<v1::Vm> {
    created(node.create_vm(&caller, new.try_into()?).await?)
}

/// One machine
#[utoipa::path(get, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, description = "The machine", body = v1::Vm)))]
async fn vm(State(node): State<Node>, Extension(caller): Caller, At(vm): At<String>) -> Answer<v1::Vm> {
    Ok(Json(node.vm(&caller, &vm).await?.into()))
}

/// Change a machine
#[utoipa::path(patch, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = String, Path)),
    request_body = v1::VmChange, responses((status = 200, description = "The machine", body = v1::Vm)))]
async fn change_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Input(change): Input<v1::VmChange>,
) -> Answer<v1::Vm> {
    Ok(Json(node.change_vm(&caller, &vm, change.try_into()?).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// Whether its disks go with it.
    #[serde(default)]
    disks: bool,
}

/// Remove a machine
#[utoipa::path(delete, path = "/v1/vms/{vm}", tag = "vms", params(("vm" = String, Path), Removal),
    responses((status = 200, description = "It is gone, and what went with it", body = v1::RemovedVm)))]
async fn remove_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Asked(removal): Asked<Removal>,
) -> Answer<v1::RemovedVm> {
    Ok(Json(node.remove_vm(&caller, &vm, removal.disks).await?.into()))
}

/// Do something to a machine as a whole
#[utoipa::path(post, path = "/v1/vms/{vm}/{operation}", tag = "vms",
    params(("vm" = String, Path), ("operation" = VmOperation, Path)),
    responses((status = 200, description = "The machine as it is then", body = v1::Vm)))]
async fn operate(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((vm, operation)): At<(String, VmOperation)>,
) -> Answer<v1::Vm> {
    let operation = match operation {
        VmOperation::UpdateVersion => return Ok(Json(node.update_version(&caller, &vm).await?.into())),
        VmOperation::Start => Operation::Start,
        VmOperation::Shutdown => Operation::ShutDown,
        VmOperation::TurnOff => Operation::TurnOff,
        VmOperation::Reset => Operation::Reset,
        VmOperation::Pause => Operation::Pause,
        VmOperation::Resume => Operation::Resume,
        VmOperation::Save => Operation::Save,
        VmOperation::RemoveSavedState => Operation::RemoveSavedState,
    };
    Ok(Json(node.operate(&caller, &vm, operation).await?.into()))
}

/// Give a machine another network adapter
#[utoipa::path(post, path = "/v1/vms/{vm}/adapters", tag = "vms", params(("vm" = String, Path)),
    request_body = v1::NewAdapter, responses((status = 201, description = "The adapter", body = v1::Adapter)))]
async fn add_adapter(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Input(new): Input<v1::NewAdapter>,
) -> Created<v1::Adapter> {
    created(node.add_adapter(&caller, &vm, new.try_into()?).await?)
}

/// Change a network adapter
#[utoipa::path(patch, path = "/v1/vms/{vm}/adapters/{adapter}", tag = "vms",
    params(("vm" = String, Path), ("adapter" = Uuid, Path)), request_body = v1::AdapterChange,
    responses((status = 200, description = "The adapter", body = v1::Adapter)))]
async fn change_adapter(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((vm, adapter)): At<(String, Uuid)>,
    Input(change): Input<v1::AdapterChange>,
) -> Answer<v1::Adapter> {
    Ok(Json(node.change_adapter(&caller, &vm, AdapterId(adapter), change.try_into()?).await?.into()))
}

/// Take a network adapter out of a machine
#[utoipa::path(delete, path = "/v1/vms/{vm}/adapters/{adapter}", tag = "vms",
    params(("vm" = String, Path), ("adapter" = Uuid, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_adapter(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((vm, adapter)): At<(String, Uuid)>,
) -> Done {
    node.remove_adapter(&caller, &vm, AdapterId(adapter)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Attach a disk to a machine
#[utoipa::path(post, path = "/v1/vms/{vm}/disks", tag = "vms", params(("vm" = String, Path)),
    request_body = v1::NewDrive, responses((status = 201, description = "The disk", body = v1::Drive)))]
async fn add_drive(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Input(new): Input<v1::NewDrive>,
) -> Created<v1::Drive> {
    created(node.add_drive(&caller, &vm, new.into()).await?)
}

/// Detach a disk from a machine; its file stays
#[utoipa::path(delete, path = "/v1/vms/{vm}/disks/{controller}/{location}", tag = "vms",
    params(("vm" = String, Path), ("controller" = v1::Controller, Path), ("location" = u8, Path)),
    responses((status = 204, description = "It is detached")))]
async fn remove_drive(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((vm, controller, location)): At<(String, v1::Controller, u8)>,
) -> Done {
    node.remove_drive(&caller, &vm, controller.into(), location).await?;
    Ok(StatusCode::NO_CONTENT)
}
