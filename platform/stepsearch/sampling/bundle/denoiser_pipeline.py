"""diffusers' pipeline for a denoiser with classes, of latents, or both; torch and diffusers only.

This file goes with an exported pipeline, which diffusers loads with `trust_remote_code=True`. Of
its own, DiTPipeline needs classes and an autoencoder, ConsistencyModelPipeline knows no guidance,
and LDMPipeline gives the scheduler's random steps no generator and forgets `shift_factor`.
"""

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class DenoiserPipeline(DiffusionPipeline):
    """A denoiser, any scheduler, and the AutoencoderKL if they draw its latents."""

    model_cpu_offload_seq = "unet->vae"
    _optional_components = ["vae"]  # noqa: RUF012  # diffusers' name

    def __init__(
        self, unet: ModelMixin, scheduler: SchedulerMixin, vae: ModelMixin | None = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)

    @property
    def null_class(self) -> int | None:
        """The label of no class, the last that the denoiser knows; None if it is told none."""
        rows = self.unet.config.get("num_class_embeds")
        null: int = rows - 1 if rows else self.unet.config.get("num_embeds_ada_norm")
        return null or None

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: Any = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """`batch_size` images, or one for each of `class_labels`, a list or a tensor of integers.

        The scheduler is given f_null + guidance_scale (f_label - f_null): 1 is no guidance, and
        evaluates the denoiser once a step instead of twice. `eta` is DDIM's, `generator` one for
        all images or a list of one for each, `output_type` is "pil", "np" or "pt".
        """
        labels = self._checked(class_labels)
        count = batch_size if labels is None else len(labels)
        drawn = self._draw(count, labels, guidance_scale, num_inference_steps, eta, generator)
        images: Any = (self._decoded(drawn) / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _checked(self, class_labels: Any) -> Tensor | None:
        null = self.null_class
        if null is None and class_labels is None:
            return None
        if null is None or class_labels is None:
            rule = "given to a denoiser with classes, and to no other"
            raise ValueError(f"class_labels must be {rule}, got {class_labels}")
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=self._execution_device)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= null:
            raise ValueError(
                f"class_labels must be in 0..{null - 1}, or {null} for no class, "
                f"got {labels.tolist()}"
            )
        return labels

    def _draw(
        self,
        count: int,
        labels: Tensor | None,
        guidance_scale: float,
        steps: int,
        eta: float,
        generator: Any,
    ) -> Tensor:
        """What the denoiser draws, [N, C, H, W]."""
        size, scheduler = self.unet.config.sample_size, self.scheduler
        height, width = (size, size) if isinstance(size, int) else size
        shape = (count, self.unet.config.in_channels, height, width)
        device, dtype = self._execution_device, self.unet.dtype
        x: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        takes = inspect.signature(scheduler.step).parameters
        given = {"eta": eta, "generator": generator}
        options = {name: value for name, value in given.items() if name in takes}
        scales = hasattr(scheduler, "scale_model_input")  # rectified flow's do not
        scheduler.set_timesteps(steps)
        x = x * scheduler.init_noise_sigma if scales else x
        for t in self.progress_bar(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t) if scales else x
            output = self._predict(seen, t, labels, guidance_scale)
            x = scheduler.step(output, t, x, **options).prev_sample
        return x

    def _predict(
        self, x: Tensor, t: Tensor, labels: Tensor | None, guidance_scale: float
    ) -> Tensor:
        output: Tensor
        if labels is None:
            output = self.unet(x, t).sample
            return output
        if guidance_scale == 1:
            output = self.unet(x, t, class_labels=labels).sample
            return output
        null: Any = self.null_class
        both = torch.cat([torch.full_like(labels, null), labels])
        plain, labelled = self.unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
        output = plain + guidance_scale * (labelled - plain)
        return output

    def _decoded(self, drawn: Tensor) -> Tensor:
        """Images [N, C, H, W], about in [-1, 1]."""
        if self.vae is None:
            return drawn
        config = self.vae.config
        images: Tensor = self.vae.decode(
            drawn / config.scaling_factor + (config.shift_factor or 0.0)
        ).sample
        return images
