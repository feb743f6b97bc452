"""Callbacks by event. Who raises is told on the console."""

from modules import errors

_callbacks = {}
_REVERSED = ("before_ui", "script_unloaded")


class CFGDenoiserParams:
    def __init__(
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x, self.image_cond, self.sigma = x, image_cond, sigma
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond, self.denoiser = text_cond, text_uncond, denoiser


def clear_callbacks():
    _callbacks.clear()


def add_callback(callbacks, fun, *, name=None, category="unknown", filename=None):
    callbacks.append(fun)


def remove_callbacks_for_function(callback_func):
    for callbacks in _callbacks.values():
        callbacks[:] = [callback for callback in callbacks if callback != callback_func]


def run(event, *args):
    """Calls everyone who asked for this event, and returns what they return."""
    callbacks = list(_callbacks.get(event, ()))
    results = []
    for callback in reversed(callbacks) if event in _REVERSED else callbacks:
        try:
            results.append(callback(*args))
        except Exception:
            errors.report(f"callback {event}", exc_info=True)
    return results


def _registering(event):
    def on(callback, *, name=None):
        add_callback(_callbacks.setdefault(event, []), callback, name=name, category=event)

    on.__name__ = f"on_{event}"
    return on


on_before_ui = _registering("before_ui")
on_app_started = _registering("app_started")
on_model_loaded = _registering("model_loaded")
on_cfg_denoiser = _registering("cfg_denoiser")
on_infotext_pasted = _registering("infotext_pasted")
on_image_saved = _registering("image_saved")
on_script_unloaded = _registering("script_unloaded")
on_ui_tabs = _registering("ui_tabs")
