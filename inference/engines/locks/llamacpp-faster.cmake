# Read at the beginning of llama.cpp's project, done at its end: many small files are compiled as few. Those with a
# preprocessor's world of their own are left out.
set(together mtmd llama-common)
set(alone json jinja/caps jinja/lexer jinja/parser jinja/runtime jinja/string jinja/value)
list(TRANSFORM alone PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/common/")
list(TRANSFORM alone APPEND ".cpp")
cmake_language(DEFER CALL set_target_properties ${together} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
cmake_language(DEFER CALL set_source_files_properties ${alone} TARGET_DIRECTORY llama-common
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
