"""The tagger."""


class DeepDanbooru:
    started = False

    def start(self):
        self.started = True

    def stop(self):
        self.started = False

    def tag_multi(self, pil_image, force_disable_ranks=False):
        assert self.started
        return f"tags, {pil_image.width}x{pil_image.height}"


model = DeepDanbooru()
