"""The equations of MultiMix as written: loops over tuples and positions in float64, sharing no code with the package.

All functions are differentiable by autograd, so that gradients are checked against the written equations as well.
"""
import torch


def soft_targets(target, num_classes, label_smoothing=0.):
    """Convert class indices `[b]` or soft targets `[b, c]` to smoothed targets `[b, c]`."""
    if target.ndim == 1:
        target = torch.tensor([[float(c == int(y)) for c in range(num_classes)] for y in target])
    rows = [[(1. - label_smoothing) * float(v) + label_smoothing / num_classes for v in row] for row in target]
    return torch.tensor(rows, dtype=torch.float64)


def cross_entropy(logits, target):
    """Compute -sum_c y_c log p_c for one vector of logits."""
    peak = logits.max().detach()
    log_partition = peak + sum((s - peak).exp() for s in logits).log()
    return -sum(y * (s - log_partition) for y, s in zip(target, logits, strict=True))


def probabilities(logits):
    exp = [(s - logits.max().detach()).exp() for s in logits]
    return torch.stack([e / sum(exp) for e in exp])


def multimix_loss(embeddings, weight, bias, target, lam, label_smoothing=0., teacher=None, gamma=None):
    """Mix the embeddings, then classify them: z `[b, d]` with Λ `[n, b]`, or `[b, r, d]` with `[r, n, b]`.

    With a teacher, constant (embeddings, weight, bias), it is γ·H(ΛY, p) + (1 - γ)·H(p', p), with one Λ for all.
    """
    if embeddings.ndim == 2:
        embeddings, lam = embeddings.unsqueeze(1), lam.unsqueeze(0)
        teacher = None if teacher is None else (teacher[0].unsqueeze(1), *teacher[1:])
    targets = soft_targets(target, weight.shape[0], label_smoothing)
    terms = []
    for j in range(lam.shape[0]):
        for row in lam[j]:
            def mix(values, row=row):
                return sum(w * value for w, value in zip(row, values, strict=True))

            logits = weight @ mix(embeddings[:, j]) + bias
            term = cross_entropy(logits, mix(targets))
            if teacher is not None:
                z, w, b = (x.detach() for x in teacher)
                term = gamma * term + (1. - gamma) * cross_entropy(logits, probabilities(w @ mix(z[:, j]) + b))
            terms.append(term)
    return sum(terms) / len(terms)


def mixupe_terms(model, images, target, label_smoothing=0., mean_image=None, residual_grad=False):
    """Compute q_i = (y_i - p_i)ᵀ f_i, or with a mean image (y_i - p_i)ᵀ J_i (μ - x_i) from the whole Jacobian."""
    terms = []
    for i in range(len(images)):
        logits = model(images[i:i + 1])[0]
        residual = soft_targets(target[i:i + 1], len(logits), label_smoothing)[0] - probabilities(logits)
        if not residual_grad:
            residual = residual.detach()
        vector = logits
        if mean_image is not None:
            jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], images[i], create_graph=True)
            vector = torch.stack([(row * (mean_image - images[i])).sum() for row in jacobian])
        terms.append(sum(r * v for r, v in zip(residual, vector, strict=True)))
    return terms


def mixupe_loss(
        model, images, target, lam, alpha, eta, threshold=None, label_smoothing=0., mean_image=None,
        residual_grad=False):
    """Compute L_mix of the batch and its reverse, minus η·α / (2α + 1)·mean_i q_i, rescaled to the size of L_mix."""
    batch_size = len(images)
    rows = []
    for i in range(batch_size):
        j = batch_size - 1 - i
        logits = model((lam * images[i] + (1. - lam) * images[j])[None])[0]
        targets = soft_targets(target, len(logits), label_smoothing)
        rows.append(cross_entropy(logits, lam * targets[i] + (1. - lam) * targets[j]))
    mixed_loss = sum(rows) / batch_size
    terms = mixupe_terms(model, images, target, label_smoothing, mean_image, residual_grad)
    kept = [q for q in terms if threshold is None or q.item() < threshold]
    loss = mixed_loss - eta * alpha / (2. * alpha + 1.) * sum(kept) / batch_size
    return mixed_loss.abs().item() / loss.abs().item() * loss


def attention(embeddings, kind='gap', weight=None, target=None, activation='relu'):
    """Compute a_i = h(z_iᵀ u_i) over the r positions of each example, `[b, r, d]` to `[b, r]`."""
    batch_size, num_positions, _ = embeddings.shape
    rows = []
    for i in range(batch_size):
        if kind == 'gap':
            query = sum(embeddings[i, j] for j in range(num_positions)) / num_positions
        elif kind == 'cam':
            label = soft_targets(target, weight.shape[0])[i]
            query = sum(label[c] * weight[c] for c in range(weight.shape[0]))
        if kind == 'none':
            scores = [torch.ones((), dtype=torch.float64)] * num_positions
        else:
            scores = [embeddings[i, j].dot(query) for j in range(num_positions)]
            peak = max(float(s) for s in scores)
            scores = [s.relu() if activation == 'relu' else (s - peak).exp() for s in scores]
        total = sum(scores)
        rows.append(torch.stack([s / total if total > 0 else torch.ones_like(s) / num_positions for s in scores]))
    return torch.stack(rows)


def dense_weights(lam, attention):
    """Compute M^j = Λ^j ⊙ a^j, each row divided by its sum; a row whose sum is zero stays λ_k^j."""
    result = lam.clone()
    num_positions, num_tuples, batch_size = lam.shape
    for j in range(num_positions):
        for k in range(num_tuples):
            row = [lam[j, k, i] * attention[i, j] for i in range(batch_size)]
            if sum(row) > 0:
                for i in range(batch_size):
                    result[j, k, i] = row[i] / sum(row)
    return result


def interpolate(weights, values):
    """Compute ΛZ for Λ `[n, b]`, Z `[b, k]`, or Λ `[r, n, b]`, Z `[b, r, k]` or, shared by all positions, `[b, k]`."""
    if weights.ndim == 3:
        return torch.stack([
            interpolate(weights[j], values if values.ndim == 2 else values[:, j]) for j in range(weights.shape[0])])
    return torch.stack([sum(w * v for w, v in zip(row, values, strict=True)) for row in weights])
