"""Embeddings: vectors in the place of a word."""

import torch


class Embedding:
    def __init__(self, vec, name, step=None):
        self.vec, self.name, self.step = vec, name, step
        self.shape = self.vectors = self.filename = self.shorthash = None


class EmbeddingDatabase:
    def __init__(self):
        self.word_embeddings, self.skipped_embeddings, self.expected_shape = {}, {}, -1
        self._tokens = {}

    def register_embedding(self, embedding, model):
        return self.register_embedding_by_name(embedding, model, embedding.name)

    def register_embedding_by_name(self, embedding, model, name):
        """None takes the name away."""
        self.word_embeddings.pop(name, None)
        self._tokens.pop(name, None)
        if embedding is not None:
            self.word_embeddings[name] = embedding
            self._tokens[name] = model.cond_stage_model.tokenize([name])[0]
        return embedding

    def find(self, tokens, place):
        """The embedding whose tokens stand at this place, and how many they are; (None, 1) where there is none."""
        for name, wanted in self._tokens.items():
            if tokens[place : place + len(wanted)] == wanted:
                return self.word_embeddings[name], len(wanted)
        return None, 1


def create_embedding_from_data(data, name, filename="unknown embedding file", filepath=None):
    """Of a `string_to_param` file, or of one with a single tensor."""
    tensors = list(data.get("string_to_param", data).values())
    if len(tensors) != 1 or not isinstance(tensors[0], torch.Tensor):
        raise Exception(f"{filename} is no embedding")
    embedding = Embedding(tensors[0].detach().float(), name)
    embedding.vectors, embedding.shape = embedding.vec.shape
    return embedding
