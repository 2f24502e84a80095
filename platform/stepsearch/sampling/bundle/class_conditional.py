"""Images of given classes by a denoiser that was trained with them; torch and diffusers only.

This file goes with an exported pipeline, which diffusers loads with `trust_remote_code=True`: of
its own class-conditional pipelines, one needs an autoencoder and the other knows no guidance.
"""

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class ClassConditionalPipeline(DiffusionPipeline):
    """A denoiser of pixels and any scheduler, with classifier-free guidance."""

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def null_class(self) -> int:
        """The label of no class, the last that the denoiser knows; the others count from 0."""
        rows = self.unet.config.get("num_class_embeds")
        null: int = self.unet.config["num_embeds_ada_norm"] if rows is None else rows - 1
        return null

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """An image for each of `class_labels`, a list or a tensor of integers.

        The scheduler is given f_null + guidance_scale (f_label - f_null): 1 is no guidance, and
        evaluates the denoiser once a step instead of twice. `eta` is DDIM's, `generator` one for
        all images or a list of one for each, `output_type` is "pil", "np" or "pt".
        """
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=self._execution_device)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= self.null_class:
            raise ValueError(
                f"class_labels must be in 0..{self.null_class - 1}, or {self.null_class} for no "
                f"class, got {labels.tolist()}"
            )
        images: Any = self._draw(labels, guidance_scale, num_inference_steps, eta, generator)
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _draw(
        self, labels: Tensor, guidance_scale: float, steps: int, eta: float, generator: Any
    ) -> Tensor:
        """Images [N, C, H, W], about in [-1, 1]."""
        size, scheduler = self.unet.config.sample_size, self.scheduler
        height, width = (size, size) if isinstance(size, int) else size
        shape = (len(labels), self.unet.config.in_channels, height, width)
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

    def _predict(self, x: Tensor, t: Tensor, labels: Tensor, guidance_scale: float) -> Tensor:
        output: Tensor
        if guidance_scale == 1:
            output = self.unet(x, t, class_labels=labels).sample
            return output
        both = torch.cat([torch.full_like(labels, self.null_class), labels])
        plain, labelled = self.unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
        output = plain + guidance_scale * (labelled - plain)
        return output
