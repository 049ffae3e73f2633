def problems(body, model):
    return []
