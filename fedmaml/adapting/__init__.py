"""A run's model at a site of one's own: adapted, evaluated, taken away. ``fedmaml adapt``.

    model        run folder -> strategy, network, meta-parameters; adapts
    examples     arrays, frames and tables -> tensors, and predictions back to labels
    network      an adapted model as one module: rows in, probabilities or numbers out
    estimators   the same in scikit-learn's manner: fit, predict, predict_proba, score
    gain         what adapting gains, by cross-validation
    formats      safetensors, torch.export, ONNX
    card         the model card
    folder       a model on disk, written and read

It knows no Flower, and no client's data leave it: a folder holds parameters, and sums that all
training clients share.
"""
