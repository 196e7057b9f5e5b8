//! `runtime.v1.ImageService`.

use serde_json::json;
use tonic::{Request, Response, Status};
use vaquita_proto::cri;
use vaquita_proto::cri::image_service_server::ImageService;

use super::{Service, answer};
use crate::node::blocking;
use crate::{Error, encoded, images};

#[tonic::async_trait]
impl ImageService for Service {
    /// In pieces that are encoded already: nothing is left to be done here.
    type StreamImagesStream = tokio_stream::Empty<Result<cri::StreamImagesResponse, Status>>;

    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        encoded::whole(self.list_images_of(request.into_inner().filter))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        Ok(encoded::pieces(self.list_images_of(request.into_inner().filter)))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let Some(image) = self.node.images.find(&name) else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let info = if request.verbose {
            let info =
                json!({ "created": image.created, "storedAt": image.stored_at, "imageSpec": image.config });
            [("info".to_owned(), info.to_string())].into()
        } else {
            std::collections::BTreeMap::new()
        };
        Ok(Response::new(cri::ImageStatusResponse { image: Some(answer::image(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = named(request.image)?;
        let auth = request.auth.as_ref().map(|auth| images::auth(auth, &name)).transpose()?.flatten();
        let image_ref = images::pull(&self.node, &name, auth.as_ref()).await?.id.to_string();
        Ok(Response::new(cri::PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = named(request.into_inner().image)?;
        let freed = self.node.images.remove(&name).await.map_err(Error::from)?;
        if freed.bytes > 0 {
            tracing::info!("image {name} is removed, which frees {} bytes", freed.bytes);
        }
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let images = self.node.images.clone();
        // kubelet asks when it looks for room: what may go goes first.
        let look = move || images.tidy().and_then(|_| images.fs_info());
        let info = blocking("disk use of images", move || look().map_err(Error::from)).await?;
        let usage = cri::FilesystemUsage {
            timestamp: info.timestamp,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: info.mountpoint.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(cri::UInt64Value { value: info.used_bytes }),
            inodes_used: Some(cri::UInt64Value { value: info.inodes_used }),
        };
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}

fn named(spec: Option<cri::ImageSpec>) -> Result<String, Error> {
    spec.map(|spec| spec.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid("image.image: is missing"))
}
