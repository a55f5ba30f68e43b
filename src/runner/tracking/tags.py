VALIDATION = "loss/val"
