"""Request data, validated by a serializer."""


def validated(serializer_class, data, **options) -> dict:
    """Raises rest_framework's ValidationError."""
    serializer = serializer_class(data=data, **options)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
