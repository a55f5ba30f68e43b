def read(folder, tags):
    return {}
