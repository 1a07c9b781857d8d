"""Trained models become tables: replicas of this project, or a model that somebody else trained.

In: a model and samples; for a foreign model its file, `module:attribute` or object, and its data.
Out: one frame per observable, with a row per replica, split and latent or rank.
Add here: a format of model files (`model_file`), or another way to hand over data (`foreign_data`). To measure a
new quantity, write a plugin with a subclass of `Observable` and return it from the hook `collapsebench_observables`;
list the quantity in its `curves` to have it drawn. It is measured where a metric of the suite requires it.
"""
